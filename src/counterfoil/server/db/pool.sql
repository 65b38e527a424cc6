-- What a new connection asks and sets before the service uses it.

-- name: own_rights
-- Whether there is a book, whether this login could change it behind append_v4's back, and
-- whether it has the rights of the service. Asked of the catalogue, which everybody may read.
select events.oid is not null,
       has_table_privilege(events.oid, 'insert, update, delete, truncate'),
       exists (select from pg_roles r
               where r.rolname = 'counterfoil_service' and pg_has_role(r.oid, 'usage'))
from (values ('counterfoil', 'events')) as wanted (schema_name, table_name)
left join (
    select c.oid, n.nspname, c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
) as events on events.nspname = wanted.schema_name and events.relname = wanted.table_name;

-- name: act_as_service
set role counterfoil_service;

-- name: bound_statements
select set_config('statement_timeout', %(milliseconds)s, false);

-- name: act_for_tenant
-- Whose rows this transaction may see: sent in one pipeline with the statement that it is for.
select set_config('counterfoil.tenant_id', %(tenant_id)s::text, true);

-- name: act_for_operator
select set_config('counterfoil.tenant_id', '1', true);

-- name: has_keys
-- Whether any key opens the operator's tenant: without one, and without a bootstrap key, nobody
-- could call the service.
select exists (select from counterfoil.keys k
               where k.tenant_id = 1 and k.revoked_at is null
                 and (k.expires_at is null or k.expires_at > clock_timestamp()));
