-- The statements of keys and tenants. access/store.py is the only caller. What changes
-- anything is an append of the log (log/own.py), and none of these.

-- name: presented
-- What the presented keys are worth: for whoever presents them, before it is known whose they are.
select p.key_id, p.tenant_id, p.tenant_name, p.kind, p.name, to_json(p.scopes), p.mode, p.digest,
       p.expires_at, p.rate_per_second, p.rate_burst, p.state
from counterfoil.presented_keys_v1(string_to_array(%(key_ids)s::text, ',')) as p;

-- name: keys
-- A page of a tenant's keys, in the order in which they were made.
select k.position, json_build_object(
           'key_id', k.key_id, 'kind', k.kind, 'name', k.name, 'mode', k.mode,
           'scopes', k.scopes, 'created_at', counterfoil.time_text(k.created_at),
           'created_by', k.created_by, 'expires_at', counterfoil.time_text(k.expires_at),
           'revoked_at', counterfoil.time_text(k.revoked_at),
           'last_used_at', counterfoil.time_text(u.last_used_at),
           'rate_per_second', k.rate_per_second, 'rate_burst', k.rate_burst,
           'replaces', k.replaces, 'event_id', k.position)
from counterfoil.keys k
left join counterfoil.key_uses u on u.tenant_id = k.tenant_id and u.key_id = k.key_id
where k.tenant_id = %(tenant_id)s::integer and k.position > %(after)s::bigint
order by k.position
limit %(limit)s::integer;

-- name: key
-- One of a tenant's keys, by its id.
select k.position
from counterfoil.keys k
where k.tenant_id = %(tenant_id)s::integer and k.key_id = %(key_id)s::text;

-- name: note_uses
-- When keys were used last, for the list of keys. It need not be flushed.
select set_config('synchronous_commit', 'off', true),
       counterfoil.note_key_uses_v1(%(uses)s::jsonb);

-- name: tenants
-- A page of all tenants, or the one of a name: for the operator.
select t.tenant_id, json_build_object(
           'tenant_id', t.tenant_id, 'name', t.name,
           'created_at', counterfoil.time_text(t.created_at))
from counterfoil.tenants_v1(
    %(after)s::integer, %(limit)s::integer, %(name)s::text) as t
order by t.tenant_id;
