# Lets db/schema.rb describe the application's own objects only.
require "delegate"

module SchemaWithoutWarden
  class Connection < SimpleDelegator
    def columns(table)
      super.reject { |column| column.name == "org_id" }
    end

    def indexes(table)
      super.reject { |index| Array(index.columns).include?("org_id") }
    end

    def foreign_keys(table)
      super.reject { |key| Array(key.column).include?("org_id") }
    end
  end

  def initialize(connection, options = {})
    super(Connection.new(connection), options)
  end
end

ActiveRecord::SchemaDumper.ignore_tables |= %w[organizations organization_members]
ActiveRecord::SchemaDumper.prepend(SchemaWithoutWarden)
