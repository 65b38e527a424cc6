-- The statements of policies and decisions. decisions/store.py is the only caller. What drafts,
-- activates, retires and decides is an append of the log.

-- name: signals
-- All that decisions rest on, of several that are asked at once, in one snapshot: where the book
-- stands, what time it is, and for each which version of its policy is in force, which decision
-- stands, and the events that the policy reads, oldest first. At least one row for each; of its
-- events as many as fit into `bytes_max`.
-- Most subjects have few events: these are walked once, and each is held against what is asked
-- (event_matches). Only of the others it is looked how they are found best (matching_v1): the call
-- alone, with its settings, costs more than such a walk.
-- With `up_to` and `as_of` of a decision's record it shows what that decision saw.
select asked.nth, b.incarnation, seen.head, counterfoil.time_text(seen.as_of), p.version,
       case when few.are_all then (
           select max(one.position)
           from unnest(few.positions) as one (position)
           where exists (
               select from counterfoil.events e
               where e.tenant_id = b.tenant_id and e.position = one.position
                 and counterfoil.event_matches(e, asked.decisions)
               offset 0)
       ) else (
           select m.position
           from counterfoil.matching_v1(b.tenant_id, asked.decisions, null, 0, seen.head, 1, true)
               as m (position)
       ) end,
       shown.found, shown.position, shown.event_type, shown.agent_name,
       counterfoil.time_text(shown.created_at),
       greatest(extract(epoch from seen.as_of - shown.created_at), 0)::text, shown.payload
from (
    select b.tenant_id, b.incarnation::text as incarnation, clock_timestamp() as now,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
    offset 0
) as b
cross join rows from (jsonb_to_recordset(%(asked)s::jsonb) as (
    policy text, subject text, decisions jsonb, query jsonb, up_to bigint, as_of timestamptz))
    with ordinality as asked (policy, subject, decisions, query, up_to, as_of, nth)
cross join lateral (
    select least(asked.up_to, b.head) as head, coalesce(asked.as_of, b.now) as as_of
) as seen
cross join lateral (
    select walked.positions, cardinality(walked.positions) <= %(few)s::integer as are_all
    from (
        select array(
            select t.position from counterfoil.event_tags t
            where t.tenant_id = b.tenant_id and t.tag = asked.subject and t.position <= seen.head
            order by t.position
            limit %(few)s::integer + 1) as positions
        offset 0
    ) as walked
) as few
left join lateral (
    select p.version from counterfoil.policies p
    where p.tenant_id = b.tenant_id and p.name = asked.policy and p.state = 'active'
    offset 0
) as p on true
left join lateral (
    select read.*, count(*) over () as found,
           sum(octet_length(read.payload)) over (order by read.position)
               - octet_length(read.payload) as bytes_before
    from (
        select found.position, e.event_type, e.agent_name, e.created_at, e.payload
        from (
            select one.position from unnest(few.positions) as one (position)
            where few.are_all
            union all
            select m.position
            from counterfoil.matching_v1(
                b.tenant_id, asked.query, null, 0, seen.head, %(limit)s::integer, false
            ) as m (position)
            where not few.are_all
        ) as found
        cross join lateral (
            select e.event_type, e.agent_name, e.created_at,
                   coalesce(e.payload::text, 'null') as payload
            from counterfoil.events e
            where e.tenant_id = b.tenant_id and e.position = found.position
              and (not few.are_all or counterfoil.event_matches(e, asked.query))
            offset 0
        ) as e
    ) as read
) as shown on shown.bytes_before < %(bytes_max)s::bigint
order by asked.nth, shown.position;

-- name: policy
-- One version of a policy, or the active one: what it says, and what became of it.
select p.version, p.document, encode(p.digest, 'hex'), json_build_object(
           'name', p.name, 'version', p.version, 'state', p.state,
           'digest', encode(p.digest, 'hex'), 'drafted_by', p.drafted_by,
           'drafted_at', counterfoil.time_text(p.drafted_at), 'event_id', p.position,
           'activated_by', p.activated_by,
           'activated_at', counterfoil.time_text(p.activated_at), 'retired_by', p.retired_by,
           'retired_at', counterfoil.time_text(p.retired_at),
           'versions', (select json_agg(o.version order by o.version)
                        from counterfoil.policies o
                        where o.tenant_id = p.tenant_id and o.name = p.name))
from counterfoil.policies p
where p.tenant_id = %(tenant_id)s::integer and p.name = %(name)s::text
  and case when %(version)s::integer is null then p.state = 'active'
           else p.version = %(version)s::integer end;

-- name: newest_policy
-- The newest version of a policy, whatever became of it.
select p.version, encode(p.digest, 'hex')
from counterfoil.policies p
where p.tenant_id = %(tenant_id)s::integer and p.name = %(name)s::text
order by p.version desc
limit 1;

-- name: versions
-- All versions of a policy, the newest first, without what they say.
select json_build_object(
           'name', p.name, 'version', p.version, 'state', p.state,
           'digest', encode(p.digest, 'hex'), 'drafted_by', p.drafted_by,
           'drafted_at', counterfoil.time_text(p.drafted_at), 'event_id', p.position,
           'activated_by', p.activated_by,
           'activated_at', counterfoil.time_text(p.activated_at), 'retired_by', p.retired_by,
           'retired_at', counterfoil.time_text(p.retired_at))
from counterfoil.policies p
where p.tenant_id = %(tenant_id)s::integer and p.name = %(name)s::text
order by p.version desc
limit %(limit)s::integer;

-- name: policies
-- A page of a tenant's policies by their names.
select listed.name, json_build_object(
           'name', listed.name, 'active_version', listed.active_version,
           'versions', listed.versions, 'digest', listed.digest,
           'changed_at', counterfoil.time_text(listed.changed_at))
from (
    select p.name, count(*) as versions,
           max(p.version) filter (where p.state = 'active') as active_version,
           max(encode(p.digest, 'hex')) filter (where p.state = 'active') as digest,
           max(greatest(p.drafted_at, p.activated_at, p.retired_at)) as changed_at
    from counterfoil.policies p
    where p.tenant_id = %(tenant_id)s::integer and p.name > %(after)s::text
    group by p.name
) as listed
order by listed.name
limit %(limit)s::integer;

-- name: decision
-- A decision's event, the head, and the decision that took its place, if one did.
select b.incarnation, b.head, shown.text, shown.payload, shown.created_at, shown.agent_name,
       successor.position
from (
    select b.tenant_id, b.incarnation::text as incarnation,
           coalesce((select e.position from counterfoil.events e where e.tenant_id = b.tenant_id
                     order by e.position desc limit 1), 0) as head
    from counterfoil.books b
    where b.tenant_id = %(tenant_id)s::integer
    offset 0
) as b
left join lateral (
    select to_json(e.tags)::text as text, e.payload::text as payload, e.payload as body,
           counterfoil.time_text(e.created_at) as created_at, e.agent_name, e.tags, e.position
    from counterfoil.events e
    where e.tenant_id = b.tenant_id and e.position = %(position)s::bigint
      and e.event_type = 'counterfoil.decision_made'
) as shown on true
left join lateral (
    select m.position
    from counterfoil.matching_v1(
        b.tenant_id,
        jsonb_build_array(jsonb_build_object(
            'types', array['counterfoil.decision_made'], 'tags', shown.tags)),
        null, shown.position, b.head, 1, false) as m (position)
    where shown.position is not null
) as successor on true;
