-- Who may do what. The roles are the cluster's, not the database's, and cannot log in:
-- an administrator grants them to the logins that the service and the eraser use.
--
--   counterfoil_service  reads, and appends through append_v4. It holds no INSERT, no
--                        UPDATE and no DELETE on anything.
--   counterfoil_eraser   blanks the payload and the salt of an event, and can do nothing
--                        else: it cannot even read a payload.

do $$
declare
    v_role text;
begin
    foreach v_role in array array['counterfoil_service', 'counterfoil_eraser'] loop
        if not exists (select from pg_roles where rolname = v_role) then
            begin
                execute format('create role %I nologin', v_role);
            exception
                -- Another database of this cluster was migrated at the same moment.
                when duplicate_object or unique_violation then null;
            end;
        end if;
    end loop;
    -- So that an owner who is no superuser can act as the service (`counterfoil dev`). Since
    -- 16, who created a role is a member of it and yet cannot act as it.
    if not pg_has_role('counterfoil_service', case
        when current_setting('server_version_num')::integer >= 160000 then 'set' else 'member'
    end) then
        execute format('grant counterfoil_service to %I', current_user);
    end if;
end
$$;

revoke all on schema counterfoil from public;
revoke all on all tables in schema counterfoil from public;
revoke all on all functions in schema counterfoil from public;

grant usage on schema counterfoil to counterfoil_service, counterfoil_eraser;

grant select on counterfoil.books, counterfoil.events, counterfoil.event_tags,
    counterfoil.key_uses, counterfoil.rules, counterfoil.event_types, counterfoil.freezes,
    counterfoil.consumers, counterfoil.consumer_progress, counterfoil.deliveries,
    counterfoil.dead_letters, counterfoil.policies, counterfoil.schema_migrations to counterfoil_service;
-- All of a key but its digest.
grant select (
    tenant_id, key_id, position, kind, name, mode, scopes, created_at, created_by, expires_at,
    revoked_at, rate_per_second, rate_burst, replaces) on counterfoil.keys to counterfoil_service;
grant execute on function
    counterfoil.append_v4(integer, jsonb, integer),
    counterfoil.matching_v1(integer, jsonb, jsonb, bigint, bigint, integer, boolean),
    counterfoil.event_matches(counterfoil.events, jsonb),
    counterfoil.time_text(timestamptz),
    counterfoil.event_text(counterfoil.events),
    counterfoil.current_tenant(),
    counterfoil.presented_keys_v1(text[]),
    counterfoil.tenants_v1(integer, integer, text),
    counterfoil.note_key_uses_v1(jsonb),
    counterfoil.consume_v2(
        integer, text, text[], text[], integer[], text[], integer[], integer[], bigint[], bigint[],
        integer[], jsonb, boolean, integer),
    counterfoil.consumer_text(counterfoil.consumers),
    counterfoil.consumers_in_need_v1(),
    counterfoil.consumer_states_v1(integer),
    counterfoil.clear_consumers_v1(integer)
    to counterfoil_service;
-- A policy is asked with the rights of whoever reads.
grant execute on function counterfoil.current_tenant() to counterfoil_eraser;

grant select (tenant_id, position) on counterfoil.events to counterfoil_eraser;
grant update (payload, salt) on counterfoil.events to counterfoil_eraser;
