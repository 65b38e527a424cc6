-- Each tenant by itself: row-level security, forced on the owner too.
--
-- Every statement of the service names its tenant twice: in its own conditions, and in a
-- setting of its transaction, by which these policies go. So a condition that was forgotten
-- finds nothing of another tenant's, and a transaction that was never told whose it is finds
-- nothing at all. It is a net below the service's code, not a wall against whoever holds
-- its login: that login chooses the setting.
--
-- A superuser and a role with BYPASSRLS see everything, for backups (pg_dump needs one).

-- The tenant of this transaction; null where it was never told. A setting that has ended
-- reads as an empty string in the same session, not as null.
create function counterfoil.current_tenant() returns integer
language sql stable parallel safe
return nullif(current_setting('counterfoil.tenant_id', true), '')::integer;

do $$
declare
    v_table text;
begin
    foreach v_table in array array[
        'events', 'event_tags', 'idempotency_keys', 'key_uses', 'rules', 'event_types', 'freezes',
        'delivery_keys', 'dead_letters', 'policies'
    ] loop
        execute format('alter table counterfoil.%I enable row level security', v_table);
        execute format('alter table counterfoil.%I force row level security', v_table);
        execute format(
            'create policy own_tenant_only on counterfoil.%I using (tenant_id = counterfoil.current_tenant())',
            v_table);
    end loop;
end
$$;

-- The list of books is the operator's: asked for by name, it is seen whole (`counterfoil
-- recover`, and the operator's list of tenants).
alter table counterfoil.books enable row level security;
alter table counterfoil.books force row level security;
create policy own_tenant_only on counterfoil.books using (
    tenant_id = counterfoil.current_tenant()
    or current_setting('counterfoil.books', true) = 'all');

-- Asked for by name, all tenants' are seen together: by who looks after them all
-- (consumers_in_need_v1). Written are only the tenant's own.
do $$
declare
    v_table text;
begin
    foreach v_table in array array[
        'consumers', 'consumer_progress', 'deliveries', 'consumer_calls'
    ] loop
        execute format('alter table counterfoil.%I enable row level security', v_table);
        execute format('alter table counterfoil.%I force row level security', v_table);
        execute format(
            'create policy own_tenant_only on counterfoil.%I using (tenant_id = counterfoil.current_tenant())',
            v_table);
        execute format(
            'create policy looked_after on counterfoil.%I for select using (current_setting(''counterfoil.consumers'', true) = ''all'')',
            v_table);
    end loop;
end
$$;

-- Whoever presents a key's id may learn what it is worth: only after that is it known whose
-- key it is. Written are only the tenant's own.
alter table counterfoil.keys enable row level security;
alter table counterfoil.keys force row level security;
create policy own_tenant_only on counterfoil.keys using (
    tenant_id = counterfoil.current_tenant());
create policy presented_keys on counterfoil.keys for select using (
    key_id = any (string_to_array(current_setting('counterfoil.presented_keys', true), ',')));

-- What the keys with these ids are worth by the database's clock, their digests with it: for
-- the one place that compares them. Ids that there are not are left out.
create function counterfoil.presented_keys_v1(p_key_ids text[])
returns table (
    key_id text, tenant_id integer, tenant_name text, kind text, name text, mode text,
    scopes text[], digest text, expires_at text, rate_per_second integer, rate_burst integer,
    state text)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('counterfoil.presented_keys', array_to_string(p_key_ids, ','), true);
    perform set_config('counterfoil.books', 'all', true);
    return query
        select k.key_id, k.tenant_id, b.name, k.kind, k.name, k.mode, k.scopes,
               encode(k.digest, 'hex'), counterfoil.time_text(k.expires_at), k.rate_per_second,
               k.rate_burst,
               case when k.revoked_at is not null then 'revoked'
                    when k.expires_at <= clock_timestamp() then 'expired'
                    else 'active' end
        from counterfoil.keys k join counterfoil.books b on b.tenant_id = k.tenant_id
        where k.key_id = any (p_key_ids);
    perform set_config('counterfoil.presented_keys', '', true);
    perform set_config('counterfoil.books', '', true);
end
$$;

-- A page of all tenants, or the one of this name: for the operator, whose calls alone lead here.
create function counterfoil.tenants_v1(p_after integer, p_limit integer, p_name text)
returns table (tenant_id integer, name text, created_at timestamptz)
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('counterfoil.books', 'all', true);
    return query
        select b.tenant_id, b.name, b.created_at from counterfoil.books b
        where b.tenant_id > p_after and (p_name is null or b.name = p_name)
        order by b.tenant_id limit p_limit;
    perform set_config('counterfoil.books', '', true);
end
$$;

-- Notes when keys of this transaction's tenant were used: {key_id: time, …}. Never back in
-- time, since several processes note the same keys.
create function counterfoil.note_key_uses_v1(p_uses jsonb) returns void
language plpgsql volatile
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into counterfoil.key_uses as u (tenant_id, key_id, last_used_at)
    select k.tenant_id, k.key_id, used.value::timestamptz
    from jsonb_each_text(p_uses) as used
    join counterfoil.keys k
        on k.tenant_id = counterfoil.current_tenant() and k.key_id = used.key
    order by k.key_id
    on conflict on constraint key_uses_pkey do update
    set last_used_at = greatest(u.last_used_at, excluded.last_used_at);
end
$$;
