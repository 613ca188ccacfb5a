-- Shared notes with row-level security of their own, by auth.uid(): profiles name the organisation, auth_org_id() reads
-- them, and a token hook adds claims.
--! tables: public.notes user_column=owner_id, public.note_shares parent=public.notes parent_column=note_id
--! keep: public.auth_org_id, public.custom_access_token_hook
--! watch: 'public.notes', 'notes', 'note', visibility => 'organisation'
--! write: insert into notes (owner_id, body) values ('{user}', 'note {n}')
--! write: insert into note_shares (note_id, user_id) select id, '{user}' from notes order by number limit 1
--!   on conflict do nothing
--! write: update notes set body = body || '.' where number % 3 = {n} % 3
--! write: delete from note_shares where user_id = '{user}'
--! write: delete from notes where number % 7 = {n} % 7
--! check: select * from note_shares s join notes n on n.id = s.note_id where s.org_id <> n.org_id
--! setup: select warden.leave_to_user('public.profiles', 'id')
create table profiles (
  id uuid primary key references auth.users on delete cascade,
  org_id uuid,
  full_name text
);
alter table profiles enable row level security;
create policy "Users read their own profile" on profiles for select using (id = auth.uid());
create function public.auth_org_id() returns uuid language sql stable security definer set search_path = '' as $$
  select org_id from public.profiles where id = auth.uid()
$$;
create function public.custom_access_token_hook(event jsonb) returns jsonb language plpgsql stable as $$
begin
  return jsonb_set(event, '{claims,app_plan}', '"paid"');
end
$$;
grant execute on function public.custom_access_token_hook(jsonb) to supabase_auth_admin;
create table notes (
  id uuid primary key default gen_random_uuid(),
  number bigint generated always as identity,
  owner_id uuid not null default auth.uid() references auth.users on delete cascade,
  body text not null
);
create table note_shares (
  note_id uuid not null references notes on delete cascade,
  user_id uuid not null references auth.users on delete cascade,
  primary key (note_id, user_id)
);
alter table notes enable row level security;
alter table note_shares enable row level security;
create policy "Owners do everything" on notes for all to authenticated
  using (owner_id = (select auth.uid())) with check (owner_id = (select auth.uid()));
create policy "Shares are for their users" on note_shares for all to authenticated using (user_id = auth.uid());
insert into profiles (id, org_id, full_name)
select id, case when email like '%@a.example' then '0a000000-0000-4000-8000-00000000000a'::uuid
                else '0b000000-0000-4000-8000-00000000000b' end, email from auth.users;
insert into notes (owner_id, body) select id, 'note ' || n from auth.users, generate_series(1, 20) n;
insert into note_shares select n.id, u.id from notes n, auth.users u where n.number % 10 = 1 and u.id = n.owner_id;
