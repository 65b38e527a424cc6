-- The statements of event types and settings. event_types/store.py is the only caller. What
-- registers and settles is an append of the log (log/own.py).

-- name: rules
-- Under which rules a tenant's events stand: the position of their last change, what becomes of
-- types without a schema, and the active version of each type. One snapshot.
select r.position, r.unregistered_types, (
           select json_object_agg(active.event_type, active.version)
           from (
               select t.event_type, max(t.version) as version
               from counterfoil.event_types t
               where t.tenant_id = r.tenant_id
               group by t.event_type
           ) as active)
from counterfoil.rules r
where r.tenant_id = %(tenant_id)s::integer;

-- name: settings
-- What a tenant has settled for itself, and the event that did so last.
select coalesce(
           (select r.unregistered_types from counterfoil.rules r
            where r.tenant_id = %(tenant_id)s::integer), 'accepted'),
       (select e.position from counterfoil.events e
        where e.tenant_id = %(tenant_id)s::integer
          and e.event_type = 'counterfoil.settings_changed'
        order by e.event_type desc, e.position desc limit 1);

-- name: schema
-- The schema of one version of a type.
select t.schema::text
from counterfoil.event_types t
where t.tenant_id = %(tenant_id)s::integer and t.event_type = %(event_type)s::text
  and t.version = %(version)s::integer;

-- name: event_type
-- One version of a type, or the active one, with the numbers of all there are.
select t.version, t.schema::text, json_build_object(
           'event_type', t.event_type, 'version', t.version,
           'active', t.version = (select max(o.version) from counterfoil.event_types o
                                  where o.tenant_id = t.tenant_id and o.event_type = t.event_type),
           'versions', (select json_agg(o.version order by o.version)
                        from counterfoil.event_types o
                        where o.tenant_id = t.tenant_id and o.event_type = t.event_type),
           'narrowing', t.narrowing, 'reason', t.reason,
           'registered_at', counterfoil.time_text(t.registered_at),
           'registered_by', t.registered_by, 'event_id', t.position)
from counterfoil.event_types t
where t.tenant_id = %(tenant_id)s::integer and t.event_type = %(event_type)s::text
  and (%(version)s::integer is null or t.version = %(version)s::integer)
order by t.version desc
limit 1;

-- name: event_types
-- A page of a tenant's types by their names, each with its active version.
select active.event_type, json_build_object(
           'event_type', active.event_type, 'version', active.version,
           'registered_at', counterfoil.time_text(active.registered_at),
           'registered_by', active.registered_by, 'event_id', active.position)
from (
    select distinct on (t.event_type) t.*
    from counterfoil.event_types t
    where t.tenant_id = %(tenant_id)s::integer and t.event_type > %(after)s::text
    order by t.event_type, t.version desc
) as active
order by active.event_type
limit %(limit)s::integer;
