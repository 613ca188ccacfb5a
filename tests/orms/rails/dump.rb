# Prints db/schema.rb of the database, as `rails db:schema:dump` does, or checks that the file is equal.
require "stringio"
require_relative "models"
require_relative "schema_without_warden"

dump = StringIO.new
ActiveRecord::SchemaDumper.dump(ActiveRecord::Base.connection, dump)
if ARGV.first == "--check"
  abort "db/schema.rb differs from the database:\n#{dump.string}" unless dump.string == File.read("db/schema.rb")
else
  puts dump.string
end
