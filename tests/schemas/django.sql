-- A learning platform in the conventions of Django: tables with the application's prefix, integer keys of users, names
-- of constraints that end in a hash, deferrable foreign keys, many-to-many tables and content types.
--! tables: public.school_course organization=default,
--!   public.school_lesson parent=public.school_course parent_column=course_id,
--!   public.school_course_teachers parent=public.school_course parent_column=course_id
--! role: ordinary_login
--! watch: 'public.school_course', 'courses', 'course'
--! watch: 'public.school_lesson', 'lessons', 'lesson'
--! write: insert into school_course (title, slug, created_by_id) values ('Course {n}', 'course-{n}', 1)
--! write: insert into school_lesson (title, position, course_id)
--!   select 'Lesson {n}', {n}, id from school_course order by id desc limit 1
--! write: insert into school_course_teachers (course_id, user_id) select id, 1 + {n} % 3 from school_course
--!   order by id desc limit 1 on conflict do nothing
--! write: update school_course set title = title || '.' where id % 3 = {n} % 3
--! write: update school_lesson set position = position + 1 where id % 4 = {n} % 4
--! write: delete from school_lesson where id % 5 = {n} % 5
--! check: select * from school_lesson l join school_course c on c.id = l.course_id where l.org_id <> c.org_id
--! ignores: unregistered-table
create table django_content_type (
  id serial primary key,
  app_label varchar(100) not null,
  model varchar(100) not null,
  constraint django_content_type_app_label_model_76bd3d3b_uniq unique (app_label, model)
);
create table auth_user (
  id serial primary key,
  username varchar(150) not null unique,
  is_superuser boolean not null default false
);
create index auth_user_username_6821ab7c_like on auth_user (username varchar_pattern_ops);
create table school_course (
  id bigserial primary key,
  title varchar(200) not null,
  slug varchar(50) not null,
  created_by_id integer not null
    constraint school_course_created_by_id_5f1c3a2b_fk_auth_user_id
    references auth_user deferrable initially deferred
);
create index school_course_created_by_id_5f1c3a2b on school_course (created_by_id);
create table school_lesson (
  id bigserial primary key,
  title varchar(200) not null,
  position integer not null check (position >= 0),
  course_id bigint not null
    constraint school_lesson_course_id_9b3f0a11_fk_school_course_id
    references school_course deferrable initially deferred
);
create index school_lesson_course_id_9b3f0a11 on school_lesson (course_id);
create table school_course_teachers (
  id bigserial primary key,
  course_id bigint not null
    constraint school_course_teache_course_id_77d0f1e2_fk_school_co
    references school_course deferrable initially deferred,
  user_id integer not null
    constraint school_course_teachers_user_id_0c5e9ad1_fk_auth_user_id
    references auth_user deferrable initially deferred,
  constraint school_course_teachers_course_id_user_id_ab12cd34_uniq unique (course_id, user_id)
);
grant select, insert, update, delete on all tables in schema public to ordinary_login;
grant usage on all sequences in schema public to ordinary_login;
insert into auth_user (username) values ('ann'), ('arthur'), ('ben');
insert into django_content_type (app_label, model) values ('school', 'course'), ('school', 'lesson');
insert into school_course (title, slug, created_by_id)
select 'Course', 'course', 1 + n % 3 from generate_series(1, 12) n;
insert into school_lesson (title, position, course_id)
select 'Lesson', n, id from school_course, generate_series(1, 4) n;
insert into school_course_teachers (course_id, user_id) select id, 1 from school_course;
