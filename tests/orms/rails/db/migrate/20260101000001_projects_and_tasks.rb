# Projects and tasks, before the database is adopted.
class ProjectsAndTasks < ActiveRecord::Migration[6.1]
  def change
    create_table :projects, id: :uuid do |t|
      t.uuid :owner_id, null: false
      t.text :name, null: false
      t.datetime :created_at, null: false
    end
    create_table :tasks do |t|
      t.references :project, type: :uuid, null: false, foreign_key: { on_delete: :cascade }
      t.integer :number, null: false
      t.text :title, null: false
      t.index %i[project_id number], unique: true
    end
  end
end
