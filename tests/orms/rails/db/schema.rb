# This file is auto-generated from the current state of the database. Instead
# of editing this file, please use the migrations feature of Active Record to
# incrementally modify your database, and then regenerate this schema definition.
#
# This file is the source Rails uses to define your schema when running `bin/rails
# db:schema:load`. When creating a new database, `bin/rails db:schema:load` tends to
# be faster and is potentially less error prone than running all of your
# migrations from scratch. Old migrations may fail to apply correctly if those
# migrations use external dependencies or application code.
#
# It's strongly recommended that you check this file into your version control system.

ActiveRecord::Schema.define(version: 2026_01_01_000002) do

  # These are extensions that must be enabled in order to support this database
  enable_extension "plpgsql"

  create_table "comments", force: :cascade do |t|
    t.bigint "task_id", null: false
    t.text "body", null: false
    t.index ["task_id"], name: "index_comments_on_task_id"
  end

  create_table "projects", id: :uuid, default: -> { "gen_random_uuid()" }, force: :cascade do |t|
    t.uuid "owner_id", null: false
    t.text "name", null: false
    t.datetime "created_at", null: false
  end

  create_table "tasks", force: :cascade do |t|
    t.uuid "project_id", null: false
    t.integer "number", null: false
    t.text "summary", null: false
    t.integer "priority", default: 0, null: false
    t.index ["project_id", "number"], name: "index_tasks_on_project_id_and_number", unique: true
    t.index ["project_id"], name: "index_tasks_on_project_id"
  end

  add_foreign_key "comments", "tasks", on_delete: :cascade
  add_foreign_key "tasks", "projects", on_delete: :cascade
end
