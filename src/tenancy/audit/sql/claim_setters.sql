-- Functions through which an ordinary role may act as another organisation.
select 'claim-setter' as rule, null::text as severity, null::text as "table", c.object,
  format(case c.kind
      when 'b' then '%s may call it; it runs statements that it builds, into which a caller may write one that sets the claims'
      when 'g' then 'when %s write to its table, it sets the claims or the role of the transaction'
      else '%s may call it; it sets the claims or the role of the transaction' end, r.names) as cause,
  'decide' as remedy_kind,
  json_build_object('question', coalesce(c.used_by || ' uses it: ', '') || case c.kind
      when 'b' then 'can a caller write another statement into one of them? (format() with %I and %L, and USING, prevent it)'
      else 'can a caller choose the organisation, the user or the role?' end, 'choices', json_build_array(
    case when c.revoke is not null then json_build_array('no request needs it', 'sql',
      case when pg_has_role(c.owner::regrole, 'usage') then '' else format(E'-- as %s:\n', c.owner) end || c.revoke) end))::text as remedy
from warden.claim_setters() c
cross join lateral (
  select string_agg(x.name, ', ' order by x.n)
      || case when cardinality(c.readers) > 3 then format(' and %s more', cardinality(c.readers) - 3) else '' end as names
  from unnest(c.readers[:3]) with ordinality x (name, n)) r
