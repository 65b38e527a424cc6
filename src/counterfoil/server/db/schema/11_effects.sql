-- What the service's own events do: each is an append like any other, and the row that it
-- makes or changes is written in the same step, at its position, under the same lock.
--
-- So there is one order for what is written and for what may be written. Nothing slips in
-- behind a freeze; every payload stands under the schema that was active at its position;
-- an idempotency key makes a key once. Only append_v4 calls these.

-- Writes a key's row. The event's position is the key's.
create function counterfoil.add_key(
    p_tenant_id integer, p_key jsonb, p_position bigint, p_now timestamptz
) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into counterfoil.keys (
        tenant_id, key_id, position, kind, name, mode, scopes, digest, created_at, created_by,
        expires_at, rate_per_second, rate_burst, replaces)
    select p_tenant_id, k.key_id, p_position, k.kind, k.name, k.mode, k.scopes,
           decode(k.digest, 'hex'), p_now, k.created_by, k.expires_at, k.rate_per_second,
           k.rate_burst, k.replaces
    from jsonb_to_record(p_key) as k (
        key_id text, kind text, name text, mode text, scopes text[], digest text,
        created_by text, expires_at timestamptz, rate_per_second integer, rate_burst integer,
        replaces text);
end
$$;

-- How many keys of a tenant open anything.
create function counterfoil.keys_in_force(p_tenant_id integer, p_now timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return (select count(*) from counterfoil.keys k
            where k.tenant_id = p_tenant_id and k.revoked_at is null
              and (k.expires_at is null or k.expires_at > p_now));
end
$$;

-- Opens another tenant's book, with the event that made its first key as number 1.
create function counterfoil.open_book(p_effect jsonb, p_now timestamptz) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    c_tenants_max constant integer := 10000;
    v_opener text := current_setting('counterfoil.tenant_id');
    v_tenant_id integer;
    v_event jsonb := p_effect -> 'event';
    v_payload jsonb := v_event -> 'payload';
    v_salt bytea := uuid_send(gen_random_uuid());
begin
    perform set_config('counterfoil.books', 'all', true);
    if exists (select from counterfoil.books b where b.name = p_effect ->> 'name') then
        return 'tenant_exists';
    end if;
    select max(b.tenant_id) + 1 into v_tenant_id from counterfoil.books b;
    if v_tenant_id > c_tenants_max then
        return 'too_many';
    end if;
    perform set_config('counterfoil.books', '', true);
    perform set_config('counterfoil.tenant_id', v_tenant_id::text, true);
    insert into counterfoil.books (tenant_id, name, created_at)
    values (v_tenant_id, p_effect ->> 'name', p_now);
    perform counterfoil.write_run(
        v_tenant_id,
        array[row(
            v_event ->> 'agent_name', v_event ->> 'event_type', v_payload,
            octet_length(v_payload::text),
            array(select jsonb_array_elements_text(v_event -> 'tags')), null, '{}', null, v_salt,
            sha256(v_salt || convert_to(v_payload::text, 'UTF8')), v_event ->> 'principal', 1
        )::counterfoil.new_event],
        null, 0, 0, p_now, false);
    perform counterfoil.add_key(v_tenant_id, p_effect -> 'key', 1, p_now);
    perform set_config('counterfoil.tenant_id', v_opener, true);
    return null;
end
$$;

-- Applies the effect of one of the service's own events. Null: done. Otherwise why it cannot
-- be, in one word, and then nothing was changed.
create function counterfoil.apply_effect(
    p_tenant_id integer,
    p_effect jsonb,
    p_position bigint,      -- the event's
    p_now timestamptz
) returns text
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Each has its reason in core/limits.py (KEYS_MAX, EVENT_TYPES_MAX, FREEZES_MAX).
    c_keys_max constant integer := 10000;
    c_event_types_max constant integer := 1000;
    c_freezes_max constant integer := 10000;
    v_key counterfoil.keys;
    v_version integer;
begin
    case p_effect ->> 'effect'

    when 'none' then
        null;

    when 'create_key' then
        if counterfoil.keys_in_force(p_tenant_id, p_now) >= c_keys_max then
            return 'too_many';
        end if;
        perform counterfoil.add_key(p_tenant_id, p_effect -> 'key', p_position, p_now);

    when 'rotate_key' then
        select * into v_key from counterfoil.keys k
        where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id';
        if not found then
            return 'key_not_found';
        elsif v_key.revoked_at is not null or v_key.expires_at <= p_now then
            return 'key_not_active';
        elsif counterfoil.keys_in_force(p_tenant_id, p_now) >= c_keys_max then
            return 'too_many';
        end if;
        perform counterfoil.add_key(p_tenant_id, p_effect -> 'key', p_position, p_now);
        update counterfoil.keys k
        set expires_at = least(
            k.expires_at, p_now + (p_effect ->> 'overlap_seconds')::integer * interval '1 second')
        where k.tenant_id = p_tenant_id and k.key_id = v_key.key_id;

    when 'revoke_key' then
        update counterfoil.keys k set revoked_at = p_now
        where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id'
          and k.revoked_at is null;
        if not found then
            return case when exists (
                select from counterfoil.keys k
                where k.tenant_id = p_tenant_id and k.key_id = p_effect ->> 'key_id'
            ) then 'unchanged' else 'key_not_found' end;
        end if;

    when 'register_event_type' then
        select max(t.version) into v_version from counterfoil.event_types t
        where t.tenant_id = p_tenant_id and t.event_type = p_effect ->> 'event_type';
        -- It was compared with the version before it, and with no other.
        if coalesce(v_version, 0) + 1 <> (p_effect ->> 'version')::integer then
            return 'version_taken';
        elsif v_version is null and (
            select count(distinct t.event_type) from counterfoil.event_types t
            where t.tenant_id = p_tenant_id) >= c_event_types_max
        then
            return 'too_many';
        end if;
        insert into counterfoil.event_types (
            tenant_id, event_type, version, position, schema, narrowing, reason, registered_at,
            registered_by)
        values (
            p_tenant_id, p_effect ->> 'event_type', (p_effect ->> 'version')::integer, p_position,
            p_effect -> 'schema', (p_effect ->> 'narrowing')::boolean, p_effect ->> 'reason',
            p_now, p_effect ->> 'by');
        insert into counterfoil.rules as r (tenant_id, position) values (p_tenant_id, p_position)
        on conflict on constraint rules_pkey do update set position = excluded.position;

    when 'change_settings' then
        insert into counterfoil.rules as r (tenant_id, position, unregistered_types)
        values (p_tenant_id, p_position, p_effect ->> 'unregistered_types')
        on conflict on constraint rules_pkey do update
        set position = excluded.position, unregistered_types = excluded.unregistered_types
        where r.unregistered_types <> excluded.unregistered_types;
        if not found then
            return 'unchanged';
        end if;

    when 'freeze' then
        -- Those that have ended hold nothing any more, and cost every append a look.
        delete from counterfoil.freezes f where f.tenant_id = p_tenant_id and f.until <= p_now;
        if (p_effect ->> 'until')::timestamptz <= p_now then
            return 'ends_in_the_past';
        elsif (select count(*) from counterfoil.freezes f
               where f.tenant_id = p_tenant_id) >= c_freezes_max then
            return 'too_many';
        end if;
        insert into counterfoil.freezes (
            tenant_id, position, kind, subject, reason, until, frozen_at, frozen_by)
        values (
            p_tenant_id, p_position, p_effect ->> 'kind', p_effect ->> 'subject',
            p_effect ->> 'reason', (p_effect ->> 'until')::timestamptz, p_now, p_effect ->> 'by');

    when 'thaw' then
        delete from counterfoil.freezes f
        where f.tenant_id = p_tenant_id and f.position = (p_effect ->> 'id')::bigint
          and (f.until is null or f.until > p_now);
        if not found then
            return 'freeze_not_found';
        end if;

    when 'put_consumer' then
        return counterfoil.put_consumer(p_tenant_id, p_effect, p_position, p_now);

    when 'change_consumer' then
        return counterfoil.change_consumer(p_tenant_id, p_effect, p_position);

    when 'set_aside' then
        return counterfoil.set_aside(p_tenant_id, p_effect, p_position, p_now);

    when 'replay_dead_letters' then
        return counterfoil.replay_dead_letters(p_tenant_id, p_effect);

    when 'drop_dead_letters' then
        return counterfoil.drop_dead_letters(p_tenant_id, p_effect);

    when 'draft_policy', 'activate_policy', 'retire_policy' then
        return counterfoil.change_policy(p_tenant_id, p_effect, p_position, p_now);

    when 'open_book' then
        return counterfoil.open_book(p_effect, p_now);

    end case;
    return null;
end
$$;
