# Applies the migrations up to a version, as `rails db:migrate VERSION=...` does.
require_relative "models"

version = ARGV.first&.to_i
ActiveRecord::MigrationContext.new("db/migrate", ActiveRecord::SchemaMigration).migrate(version)
