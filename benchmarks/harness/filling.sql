-- Statements that make a grown book, and look at one. harness/filling.py is the only caller.
--
-- A chunk of events is one statement and one transaction, with every index in place. So the
-- index pages end up as full as appends leave them: an index that is built afterwards, over
-- sorted rows, is smaller and its pages are full, which no book in use ever has.

-- name: seed
-- Makes the random() of the next statement draw the same numbers in every run.
select setseed(%(seed)s::double precision);

-- name: chunk
-- Writes the events of `first` to `last`. What a row draws by chance it draws in `drawn`,
-- once: `materialized` keeps the salt that is stored the one that was digested.
with drawn as materialized (
    select n as position,
           'agent_' || lpad(floor(random() * 20)::integer::text, 2, '0') as agent_name,
           (%(types)s::text[])[1 + floor(random() * cardinality(%(types)s::text[]))::integer]
               as event_type,
           -- Squared: few customers have many events, and most have few.
           floor(power(random(), 2) * %(customers)s::integer)::integer as customer,
           100 + floor(random() * 999900)::integer as amount_minor,
           floor(random() * 1000)::integer as score,
           floor(random() * 5000)::integer as merchant,
           random() < %(review_share)s::double precision as reviewed,
           uuid_send(gen_random_uuid()) as salt
    from generate_series(%(first)s::bigint, %(last)s::bigint) as n
),
written as materialized (
    select d.*,
           jsonb_build_object(
               'amount_minor', d.amount_minor, 'currency', 'EUR', 'score', d.score,
               'merchant', 'm_' || lpad(d.merchant::text, 4, '0'),
               'note', left(%(filler)s::text, %(note_characters)s::integer
                   - length(d.amount_minor::text) - length(d.score::text))
           ) as payload,
           array['customer:cust_' || lpad(d.customer::text, 5, '0'), %(common_tag)s::text]
               || case when d.position %% %(dossier_step)s::bigint = 0 then
                      array['dossier:' || (d.position / %(dossier_step)s::bigint)
                                          %% %(dossiers)s::bigint] else '{}' end
               || case when d.reviewed then array[%(review_tag)s::text] else '{}' end
               || array['transaction:filled_' || d.position] as tags
    from drawn d
),
stored as (
    insert into counterfoil.events (
        tenant_id, position, agent_name, event_type, payload, tags, created_at, caused_by,
        salt, digest, principal)
    select %(tenant_id)s::integer, w.position, w.agent_name, w.event_type, w.payload, w.tags,
           %(begun)s::timestamptz
               + w.position * (%(ended)s::timestamptz - %(begun)s::timestamptz)
               / %(events)s::bigint,
           '{}', w.salt, sha256(w.salt || convert_to(w.payload::text, 'UTF8')),
           %(principal)s::text
    from written w
)
insert into counterfoil.event_tags (tenant_id, tag, position)
select %(tenant_id)s::integer, t.tag, w.position
from written w cross join lateral unnest(w.tags) as t (tag);

-- name: vacuum
-- What autovacuum does by itself to tables that have grown by a fifth.
vacuum (analyze) counterfoil.events, counterfoil.event_tags, counterfoil.idempotency_keys;

-- name: head
select coalesce((select e.position from counterfoil.events e
                 where e.tenant_id = %(tenant_id)s::integer
                 order by e.position desc limit 1), 0);

-- name: sizes
-- What a book takes on disk, in bytes: each table by itself, its TOAST, each of its indexes.
select c.relname as table_name, part.name as part, part.bytes
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
cross join lateral (
    select 'table' as name,
           pg_table_size(c.oid)
               - case when c.reltoastrelid <> 0 then pg_total_relation_size(c.reltoastrelid)
                      else 0 end as bytes
    union all
    select 'toast', pg_total_relation_size(c.reltoastrelid) where c.reltoastrelid <> 0
    union all
    select i.relname, pg_table_size(i.oid)
    from pg_index x join pg_class i on i.oid = x.indexrelid
    where x.indrelid = c.oid
) as part
where n.nspname = 'counterfoil' and c.relkind = 'r'
  and c.relname in ('events', 'event_tags', 'idempotency_keys')
order by c.relname, part.name;

-- name: without_triggers
-- The triggers that keep a book from being emptied are for everyone else.
select set_config('session_replication_role', 'replica', false);

-- name: empty
truncate counterfoil.events, counterfoil.event_tags, counterfoil.idempotency_keys;

-- name: tutorial
-- The same work in the tutorial's table: agents, types and payloads of the same kind.
insert into agent_events (agent_name, event_type, payload, created_at)
select 'agent_' || lpad(floor(random() * 20)::integer::text, 2, '0'),
       (%(types)s::text[])[1 + floor(random() * cardinality(%(types)s::text[]))::integer],
       jsonb_build_object(
           'amount_minor', 100 + floor(random() * 999900)::integer, 'currency', 'EUR',
           'score', floor(random() * 1000)::integer,
           'merchant', 'm_' || lpad(floor(random() * 5000)::integer::text, 4, '0'),
           'note', left(%(filler)s::text, %(note_characters)s::integer - 8)),
       %(begun)s::timestamptz
           + n * (%(ended)s::timestamptz - %(begun)s::timestamptz) / %(events)s::bigint
from generate_series(1, %(events)s::bigint) as n;

-- name: vacuum_tutorial
vacuum (analyze) agent_events;
