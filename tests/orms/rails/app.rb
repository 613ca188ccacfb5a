# Checks of the adopted application: `app.rb inserts` and `app.rb isolation`.
require_relative "models"

A, B = %w[A B].map { |x| { sub: ENV.fetch("USER_#{x}"), app_metadata: { org_id: ENV.fetch("ORG_#{x}") } } }

def check(condition, message = "a check failed")
  raise message unless condition
end

def fails
  yield
rescue ActiveRecord::StatementInvalid => e
  e
else
  raise "no error"
end

def names
  Project.pluck(:name)
end

def inserts
  Tenancy.acting_as(A) do
    project = Project.create!(owner_id: A[:sub], name: "new")
    first = project.tasks.create!(number: 1, summary: "first")
    rows = (2..101).map { |n| { project_id: project.id, number: n, summary: "bulk" } }
    check Task.insert_all!(rows, returning: %w[id priority]).rows.length == 100

    row = { project_id: project.id, number: 1, summary: "upserted" }
    Task.upsert_all([row], unique_by: %i[project_id number])
    Task.insert_all([row.merge(summary: "ignored")], unique_by: %i[project_id number])
    first.comments.create!(body: "a comment")

    check project.tasks.count == 101
    check first.reload.summary == "upserted"
    %w[projects tasks comments].each do |table|
      orgs = Project.connection.select_values("select distinct org_id::text from #{table}")
      check orgs == [A[:app_metadata][:org_id]], "#{table}: #{orgs}"
    end
  end
end

def isolation
  of_b = Tenancy.acting_as(B) { Project.all.to_a }
  check of_b.map(&:name) == ["old B"]
  id = of_b.first.id
  Tenancy.acting_as(A) do
    check names.include?("old A") && !names.include?("old B")
    check Project.where(id: id).update_all(name: "mine").zero?
    check Task.where(project_id: id).delete_all.zero?
  end
  fails { Tenancy.acting_as(A) { Task.insert_all!([{ project_id: id, number: 9, summary: "in another organisation" }]) } }

  # One connection, so each transaction follows another one with other claims.
  pid = -> { Project.connection.select_value("select pg_backend_pid()") }
  first = pid.call
  Tenancy.acting_as(A) { check pid.call == first && names.include?("old A") }
  check pid.call == first && names.empty?
  fails { Tenancy.acting_as(A) { Project.connection.execute("select 1 / 0") } }
  check pid.call == first && names.empty?
  Tenancy.acting_as(B) { check pid.call == first && names == ["old B"] }
  fails { Project.create!(owner_id: A[:sub], name: "without claims") }
  ActiveRecord::Base.connection_handler.clear_active_connections!

  threads = (0...4).map do |thread|
    Thread.new do
      25.times do |n|
        seen = Tenancy.acting_as((n + thread).even? ? A : B) { names }
        check (n + thread).even? == seen.include?("old A") && (n + thread).odd? == seen.include?("old B")
        ActiveRecord::Base.connection_handler.clear_active_connections!
      end
    end
  end
  threads.each(&:join)
end

{ "inserts" => method(:inserts), "isolation" => method(:isolation) }.fetch(ARGV.first).call
