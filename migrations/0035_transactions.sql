-- Sealed transactions: the string `tx` of an event, which a back end can ask for within its own transaction. A gateway
-- computes the same string (src/cursor/transaction.rs). docs/design/cursor.md explains the seal.
set local lock_timeout = '5s';
set local statement_timeout = '5min';
set local role warden_owner;

-- The key of the seal. It is never replaced by itself, so that one transaction has one string on all nodes, for as long
-- as its epoch lasts. No role but the owner may read it.
create table if not exists warden.transaction_key (
  singleton boolean primary key default true check (singleton),
  -- Each UUID has 122 random bits from the source that PostgreSQL uses for keys.
  key bytea not null
    default sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
    constraint transaction_key_length check (octet_length(key) = 32)
);
insert into warden.transaction_key default values on conflict do nothing;

-- The key for a gateway. A restore of the schema alone has none, so it is created if it is missing.
create or replace function warden.load_transaction_key() returns bytea
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
  if not exists (select from warden.transaction_key) then
    insert into warden.transaction_key default values on conflict do nothing;
  end if;
  return (select k.key from warden.transaction_key k);
end
$$;

-- HMAC-SHA256 (RFC 2104) with a key of 32 bytes, because PostgreSQL has SHA-256 alone.
create or replace function warden.hmac_sha256(key bytea, message bytea) returns bytea
language plpgsql immutable strict set search_path = pg_catalog, pg_temp as $$
declare
  inner_pad bytea := pg_catalog.decode(pg_catalog.repeat('36', 64), 'hex');
  outer_pad bytea := pg_catalog.decode(pg_catalog.repeat('5c', 64), 'hex');
begin
  for n in 0..31 loop
    inner_pad := pg_catalog.set_byte(inner_pad, n, pg_catalog.get_byte(key, n) # 54);
    outer_pad := pg_catalog.set_byte(outer_pad, n, pg_catalog.get_byte(key, n) # 92);
  end loop;
  return pg_catalog.sha256(outer_pad || pg_catalog.sha256(inner_pad || message));
end
$$;

-- The transaction as clients of the organisation receive it. No other caller than the functions below may execute it,
-- because it would seal any transaction for any organisation.
create or replace function warden.seal_transaction(org_id uuid, xid xid8) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
  key constant bytea := (select k.key from warden.transaction_key k);
  epoch constant text[] := pg_catalog.string_to_array(warden.epoch(), '.');
  incarnation constant bigint := coalesce(
    (select max(i.value) from warden.incarnations i
     where i.org_id in (seal_transaction.org_id, '00000000-0000-0000-0000-000000000000')), 0);
  number constant bigint := xid::text::bigint;
  tag bytea;
  pad bigint;
begin
  if key is null then
    raise exception 'warden.current_tx: there is no key for transactions'
      using errcode = '55000', hint = 'Start a gateway, or as an operator: select warden.load_transaction_key().';
  end if;
  tag := pg_catalog.substr(warden.hmac_sha256(
    key,
    pg_catalog.decode('81', 'hex') || pg_catalog.int8send(epoch[1]::bigint) || pg_catalog.decode(epoch[2], 'hex')
      || pg_catalog.oidsend(epoch[3]::oid) || pg_catalog.uuid_send(seal_transaction.org_id)
      || pg_catalog.int8send(incarnation) || pg_catalog.int8send(number)), 1, 16);
  pad := ('x' || pg_catalog.encode(pg_catalog.substr(warden.hmac_sha256(key, pg_catalog.decode('82', 'hex') || tag), 1, 8), 'hex'))
           ::bit(64)::bigint;
  return pg_catalog.translate(
    pg_catalog.encode(pg_catalog.int8send(number # pad) || tag, 'base64'), '+/', '-_');
end
$$;

-- The string `tx` that the events of the current transaction carry for the members of this organisation; without an
-- argument, of the organisation in the caller's claims. A back end returns it to the client that caused the change,
-- which recognises the events by it.
create or replace function warden.current_tx(org_id uuid default null) returns text
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp set row_security = on as $$
declare
  organization constant uuid := coalesce(current_tx.org_id, warden.auth_org_id());
begin
  if organization is null then
    raise exception 'warden.current_tx: this transaction has no claims with an organisation'
      using errcode = '22023', hint = 'Name the organisation: select warden.current_tx(org_id).';
  end if;
  perform warden.expect_organization(organization, 'warden.current_tx');
  return warden.seal_transaction(organization, pg_catalog.pg_current_xact_id());
end
$$;

grant execute on function warden.load_transaction_key() to warden_gateway;
grant execute on function warden.current_tx(uuid) to warden_publisher;
reset role;
