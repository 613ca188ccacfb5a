-- A catalogue of products with types of extensions: trees of categories, attributes as key and value, and names without
-- regard to case. The extensions are in a schema of their own.
--! needs: ltree, hstore, citext
--! tables: public.categories, public.products
--! watch: 'public.products', 'products', 'product'
--! write: insert into categories (path, created_by) values ('top.c{n}', '{user}')
--! write: insert into products (category_id, name, attributes)
--!   select id, 'Product {n}', extensions.hstore('n', '{n}') from categories order by path limit 1
--! write: update products set attributes = attributes operator(extensions.||) extensions.hstore('seen', '{n}')
--!   where number % 3 = {n} % 3
--! write: update products set name = 'PRODUCT {n}' where number % 50 = {n} % 50
--! write: delete from products where number % 6 = {n} % 6
--! write: delete from categories where path operator(extensions.~) '*.c{n}'
--! check: select * from products p join categories c on c.id = p.category_id where p.org_id <> c.org_id
create table categories (
  id uuid primary key default gen_random_uuid(),
  path extensions.ltree not null,
  created_by uuid not null
);
create index on categories using gist (path);
create table products (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  category_id uuid not null references categories on delete cascade,
  name extensions.citext not null,
  attributes extensions.hstore not null default ''
);
create index on products using gin (attributes);
insert into categories (path, created_by)
select ('top.c' || n)::extensions.ltree, case when n % 2 = 0 then '1a000000-0000-4000-8000-00000000000a'::uuid
                                              else '1b000000-0000-4000-8000-00000000000b' end
from generate_series(1, 6) n;
insert into products (category_id, name) select id, 'Product ' || n from categories, generate_series(1, 10) n;
