# Applied to the adopted database: a new column, a renamed column and a new table.
class Comments < ActiveRecord::Migration[6.1]
  def change
    add_column :tasks, :priority, :integer, null: false, default: 0
    rename_column :tasks, :title, :summary
    create_table :comments do |t|
      t.references :task, null: false, foreign_key: { on_delete: :cascade }
      t.text :body, null: false
    end
  end
end
