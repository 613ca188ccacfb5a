# The application's tables. No model mentions org_id, except to ignore it.
require "active_record"
require_relative "tenancy"

ActiveRecord::Base.establish_connection(ENV.fetch("DATABASE_URL").sub("postgres:", "postgresql:") + "?pool=4")
# The default of new applications since Rails 7.0: an insert names every column that the model knows.
ActiveRecord::Base.partial_writes = false

class ApplicationRecord < ActiveRecord::Base
  self.abstract_class = true
  self.ignored_columns = ["org_id"]
end

class Project < ApplicationRecord
  has_many :tasks
end

class Task < ApplicationRecord
  belongs_to :project
  has_many :comments
end

class Comment < ApplicationRecord
  belongs_to :task
end
