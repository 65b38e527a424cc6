-- message-db through its public function, as its documentation calls it. Scripts of pgbench:
-- in prepared mode each :name is a parameter of one prepared statement.
-- http://docs.eventide-project.org/user-guide/message-db/server-functions.html

-- name: set_search_path
-- Its functions name its tables without their schema.
do $$
begin
    execute format(
        'alter database %I set search_path = message_store, public', current_database()
    );
end;
$$;

-- name: write_message
-- A message to a stream of its own. What stands before the first hyphen of a stream's name is
-- its category, and the write locks that.
select write_message(
    gen_random_uuid()::varchar,
    'agent_' || :category::integer || '-w_' || :transaction::bigint,
    :type,
    :data::jsonb,
    :metadata::jsonb
);

-- name: write_messages
-- Several to one stream, in one transaction.
select write_message(
    gen_random_uuid()::varchar,
    'agent_' || :category::integer || '-w_' || :transaction::bigint,
    :type,
    data,
    metadata
)
from unnest(:data::jsonb[], :metadata::jsonb[]) as message (data, metadata);

-- name: count
select count(*) from message_store.messages;
