"""Every limit of the service: its name, its unit, and why it is what it is.

A queue, page, body, wait or text without a bound is a way for one caller to take
the service from all others, so each has one here and nowhere else. The names end
in their unit. The documentation page ``docs/limits.md`` lists the same table, and a
test compares the two.
"""

from typing import Final

# --- Text -------------------------------------------------------------------------

NAME_CHARACTERS_MAX: Final = 128
"""An agent name or an event type. Long enough for a dotted path with a version; short
enough that three of them and a position stay well under an index row's 2,704 bytes."""

TAG_CHARACTERS_MAX: Final = 256
"""One whole tag, ``kind:value``, in characters (four bytes each at the most)."""

TAG_KIND_CHARACTERS_MAX: Final = 64
"""The kind of a tag, the part before its first colon."""

TAGS_MAX: Final = 32
"""Tags of one event, given and derived together. Each is a row of its own."""

IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255
"""The header ``Idempotency-Key``; visible ASCII only."""

REQUEST_ID_CHARACTERS_MAX: Final = 128
"""The header ``X-Request-Id`` that a caller may choose; a longer one is replaced."""

# --- Documents --------------------------------------------------------------------

PAYLOAD_BYTES_MAX: Final = 256 * 1024
"""One payload, both as sent and as PostgreSQL writes it out (it writes ``1e99`` as a
hundred digits). An event is a fact about something, not a file."""

CONTEXT_BYTES_MAX: Final = 4 * 1024
"""One event's ``context``: versions and ids of what produced it, not transcripts."""

DOCUMENT_DEPTH_MAX: Final = 64
"""Nested arrays and objects in a body. Recursive readers (ours, PostgreSQL's and every
consumer's) each have a stack; none of them needs to find its end."""

NUMBER_DIGITS_MAX: Final = 100
"""Digits of one number *written out*, the exponent counted: ``1e131071`` is eight
bytes that PostgreSQL reads back as 131,072."""

FIELD_ERRORS_MAX: Final = 20
"""Offending fields that one refusal names. Who has more wrong than that has one thing
wrong in many places."""

POINTER_CHARACTERS_MAX: Final = 512
"""One JSON pointer in a refusal. The names in it are the caller's and may be long; the
pointer then ends at the nearest part around the offending one."""

CAUSES_MAX: Final = 100
"""Entries in one event's ``caused_by``."""

# --- Requests ---------------------------------------------------------------------

APPEND_BODY_BYTES_MAX: Final = 512 * 1024
"""The body of a one-event append: a payload at its limit, its context and a condition."""

BATCH_EVENTS_MAX: Final = 1_000
"""Events in one atomic batch. More would hold the book's lock for too long."""

BATCH_BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""The body of a batch."""

QUERY_BODY_BYTES_MAX: Final = 256 * 1024
"""The body of a query."""

QUERY_ITEMS_MAX: Final = 100
"""Items of one query, in a read or in a condition."""

QUERY_ITEM_VALUES_MAX: Final = 100
"""Types, or agents, of one query item. Its tags are bounded by ``TAGS_MAX``."""

POSITION_MAX: Final = 2**63 - 1
"""The highest position that PostgreSQL's bigint can hold."""

PAGE_EVENTS_MAX: Final = 1_000
"""Events of one page."""

PAGE_EVENTS_DEFAULT: Final = 100
"""Events of a page when the caller does not say."""

PAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Events of one page together, as written out: a thousand at their limit would be 256 MiB.
A page that reaches it ends early; its cursor goes on from there."""

LATEST_EVENTS_DEFAULT: Final = 20
"""Events of an agent's latest list when the caller does not say."""

CONFLICTS_MAX: Final = 20
"""Events in the way that a refused condition shows."""

QUERY_PARAMETERS_MAX: Final = 300
"""Parameters in one address: more than the types, agents and tags of one query item."""

MANAGE_BODY_BYTES_MAX: Final = 128 * 1024
"""The body of a call that manages keys, tenants, event types, consumers, policies or the brake."""

HEADERS_BYTES_MAX: Final = 64 * 1024
"""A request's first line and headers together, read before the key can be looked at."""

HEADERS_MAX: Final = 100
"""Headers of one request. A browser behind two proxies sends some thirty."""

HEADERS_SECONDS_MAX: Final = 10.0
"""How long a connection may take to send a whole request line with its headers, and the first
byte of the body that they announce."""

BODY_SECONDS_MAX: Final = 30.0
"""How long a body may take to arrive: 4 MiB at little more than 1 Mbit/s."""

BODIES_BYTES_MAX: Final = 128 * 1024 * 1024
"""Bodies that one process holds at a time, arriving or being worked on; its tenants share them.
Beyond: 503 with ``Retry-After``; a thousand callers with a batch each would take 4 GiB."""

MUCH_HELD_SIXTEENTHS_MAX: Final = 12
"""How much of what a process has for all tenants (``BODIES_BYTES_MAX``,
``STREAM_SUBSCRIBERS_MAX``) those that hold more than little may hold together, and so one alone. A
service with one tenant can use most of what it has; its neighbours, where there are any, always
find a quarter."""

LITTLE_HELD_SIXTEENTHS_MAX: Final = 1
"""How much of it is little: what a tenant may hold whatever the others do. Two batches at their
limit are arriving, or 62 live readers follow."""

TURNS_SECONDS: Final = 1.0
"""For how long tenants count as calling side by side, and take turns, after two of them did. Short:
who looks in once in a quarter of a minute, as metrics are read, must not cost a busy tenant its pace
for longer."""

TURN_REQUESTS_MAX: Final = 12
"""Requests that begin in one turn of a tenant: enough for group commit to have something to group.
With one at a time, each took twice the processor's time."""

TURN_SECONDS: Final = 0.01
"""After which a turn is over that was not used up. Who asks for no more than fits never rests."""

TURN_REST: Final = 2.0
"""How many times as long as the processor worked for it a tenant rests that used a turn up. So one
that is busy has a third of a process while others call, and the rest is for them, and for the
database where it is on the same machine."""

UNREAD_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
"""What is read and thrown away of a body behind the answer that refused it: many clients send
all of a body before they look for an answer, and would be told of a reset connection instead."""

UNREAD_BODY_SECONDS_MAX: Final = 5.0
"""For how long that goes on. Then the connection is closed."""

UNAUTHENTICATED_MAX: Final = 10
"""Answers 401 in a row on one connection; the last of them closes it."""

# --- Keys -------------------------------------------------------------------------

SCOPES_MAX: Final = 100
"""Scopes of one key. They are held in memory for each key, and a query is held against them."""

SCOPE_CHARACTERS_MAX: Final = 256
"""One scope as it is written: an event type at its limit and a kind of tags at its own, in
ASCII. What is percent-encoded may be too long for it, and then ends in ``*``."""

RATE_PER_SECOND_MAX: Final = 100_000
"""Requests per second that one key may be granted: more than a process can serve."""

RATE_BURST_MAX: Final = 1_000_000
"""Requests that a key may be granted at once after a pause."""

RATE_BUCKETS_MAX: Final = 100_000
"""Keys whose rates one process keeps count of, some 300 bytes each. Beyond, it forgets those
that called the longest ago; one that had used up its burst is then granted it again."""

REASON_CHARACTERS_MAX: Final = 500
"""Why something was frozen, thawed, revoked or narrowed: a sentence or two, for the book."""

KEYS_MAX: Final = 10_000
"""Keys of one tenant that open anything at the same time."""

KEY_OVERLAP_SECONDS_DEFAULT: Final = 3_600
"""How long a key goes on to work after its rotation, when the caller does not say."""

KEY_OVERLAP_SECONDS_MAX: Final = 30 * 24 * 3_600
"""How long it may: two keys for one principal are twice as many to lose."""

KEY_TRUST_SECONDS_MAX: Final = 0.8
"""How long a key is taken for what it was when it was looked up last. What is done to a key
takes effect within this time, in every process."""

KEY_REFRESH_SECONDS: Final = 0.3
"""How often the keys in use are looked up anew, well before they are not trusted any more."""

KEY_LOOKUPS_MAX: Final = 1_000
"""Keys that one process looks up at once; as many callers may wait for theirs."""

KEYS_REMEMBERED_MAX: Final = 10_000
"""Keys, and ids that no key has, that one process remembers: some 10 MiB."""

KEY_USES_NOTED_SECONDS: Final = 60.0
"""How exactly the time of a key's last use is kept."""

REFUSALS_TOLD_SECONDS: Final = 60.0
"""How often refused attempts are summed up in the book: one event a key and minute."""

FREEZES_MAX: Final = 10_000
"""What a tenant can have frozen at the same time."""

EVENT_TYPES_MAX: Final = 1_000
"""Event types that a tenant can register."""

SCHEMA_BYTES_MAX: Final = 64 * 1024
"""The schema of an event type."""

SCHEMA_VALUES_MAX: Final = 10_000
"""Values of a schema with every reference written out; a long text counts for several."""

SCHEMA_DEPTH_MAX: Final = 64
"""Schemas within one another, references written out. A payload is not so deep."""

SCHEMA_PATTERNS_MAX: Final = 100
"""Patterns of one schema."""

SCHEMA_PATTERN_CHARACTERS_MAX: Final = 2_000
"""One pattern as it is written."""

SCHEMA_PATTERN_CLASSES_MAX: Final = 64
"""Classes such as `[0-9]`'s short form in one pattern: compiling them takes time with the square of
their number, 20 ms for these."""

SCHEMA_PATTERNS_CLASSES_MAX: Final = 256
"""The same for all patterns of a schema."""

SCHEMA_PATTERN_BYTES_MAX: Final = 256 * 1024
"""What one compiled pattern of a schema may take; `^.{1,140}$` takes about as much."""

SCHEMA_PATTERNS_BYTES_MAX: Final = 1024 * 1024
"""What all of them may take together."""

SCHEMA_PATTERN_STATES_BYTES_MAX: Final = 64 * 1024
"""What it may remember while it runs; where that is not enough, it runs more slowly."""

SCHEMA_PATHS_BYTES_MAX: Final = 4 * 1024 * 1024
"""The pointers to all keywords of a schema together: the checker keeps each of them whole, so a long
name with much below it takes its length as often."""

CHECK_STEPS_MAX: Final = 2_000_000
"""Steps that holding one payload against its schema may take at most: a tenth of a second or
so, in which the process answers nobody."""

CHECK_REQUEST_STEPS_MAX: Final = 20_000_000
"""The same for all payloads of one request together. Others are served in between."""

PROOF_STEPS_MAX: Final = 20_000_000
"""Steps for comparing two versions of a schema: a second or so. Where they do not suffice, the
new one counts as narrower."""

RULES_TRIES_MAX: Final = 10
"""How often an append is judged anew because the rules changed meanwhile."""

RULES_REMEMBERED_MAX: Final = 10_000
"""Tenants whose rules one process remembers."""

SCHEMAS_REMEMBERED_BYTES_MAX: Final = 256 * 1024 * 1024
"""What the compiled schemas may take that one process keeps, of all tenants. An ordinary one
takes some tens of KiB; one that is no more needed than all others is compiled anew."""

LIST_ROWS_MAX: Final = 1_000
"""Keys, tenants, event types, consumers, dead letters, policies or decisions of one page."""

LIST_ROWS_DEFAULT: Final = 100
"""The same, when the caller does not say."""

RATE_PER_SECOND_DEFAULT: Final = 1_000
"""Calls a second that a key may make for ever, in each worker, unless it was made for others."""

RATE_BURST_DEFAULT: Final = 2_000
"""Calls that it may make at once."""

RATE_REFUSAL_SECONDS: Final = 0.1
"""How long a refusal for calling too often is held back. A caller that comes again at once
would otherwise keep the process busy with refusals."""

# --- Group commit -----------------------------------------------------------------

GROUP_REQUESTS_MAX: Final = 64
"""Requests in one call of the stored function. The gain of grouping flattens there,
and each more would wait for the slowest of the others."""

GROUP_EVENTS_MAX: Final = 1_000
"""Events in one call, so that a few batches do not hold the lock for long together."""

GROUP_BYTES_MAX: Final = 4 * 1024 * 1024 + 64 * 1024
"""Bytes in one call: at least one whole batch with what surrounds it."""

CONDITION_STEPS_MAX: Final = 20_000
"""Positions that a condition looks back over, times the types, agents and tags that it
names. One that looks further may take long to check, and waits with its like instead of with everybody."""

QUEUE_REQUESTS_MAX: Final = 2_000
"""Appends of one lane waiting in one process; a tenant has two lanes. Beyond: 503 with ``Retry-After``."""

QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of those appends: two thousand batches at their limit would be 8 GiB."""

QUEUE_WAIT_SECONDS_MAX: Final = 5.0
"""How long an append may wait for its group to start before it is given back unwritten."""

LOCK_WAIT_MILLISECONDS_MAX: Final = 2_000
"""How long a group may wait for the head of its book."""

APPEND_STATEMENT_MILLISECONDS_MAX: Final = 15_000
"""How long one group may run in the database, its wait for the lock included."""

APPEND_OUTCOME_SECONDS_MAX: Final = 30.0
"""How long a caller waits for the outcome of a group that was sent (a synchronous
standby may hold a commit back for ever); after that the outcome is unknown to it."""

CLOCK_SKEW_SECONDS_ALARM: Final = 5.0
"""How far the book's last time may lie ahead of the server's clock before it is an alarm."""

# --- Consumers --------------------------------------------------------------------

CONSUMERS_MAX: Final = 1_000
"""Consumers of one tenant."""

CONSUMER_NAME_CHARACTERS_MAX: Final = 64
"""The name of a consumer: lower-case letters, digits, ``.``, ``_`` and ``-``."""

LEASE_SECONDS_DEFAULT: Final = 60
"""How long a delivery is held, when a consumer does not say."""

LEASE_SECONDS_MAX: Final = 12 * 3_600
"""How long it may be held: a dead holder's work waits that long."""

ATTEMPTS_DEFAULT: Final = 10
"""How often an event is handed out before it is set aside, when a consumer does not say."""

ATTEMPTS_MAX: Final = 100
"""How often it may be: what became of each attempt is kept until the event is done."""

BACKOFF_INITIAL_SECONDS_DEFAULT: Final = 1
"""How long an event waits after its first failure, when a consumer does not say."""

BACKOFF_INITIAL_SECONDS_MAX: Final = 3_600
"""How long it may."""

BACKOFF_FACTOR_DEFAULT: Final = 2
"""By what the wait grows with each further failure, when a consumer does not say."""

BACKOFF_FACTOR_MAX: Final = 10
"""By what it may grow."""

BACKOFF_GROWS_TO_SECONDS_DEFAULT: Final = 300
"""What the wait grows to at most, when a consumer does not say."""

BACKOFF_GROWS_TO_SECONDS_MAX: Final = 24 * 3_600
"""What it may grow to."""

RELEASE_DELAY_SECONDS_MAX: Final = 7 * 24 * 3_600
"""For how long an event may be given back."""

IN_FLIGHT_MAX: Final = 10_000
"""The highest bound on what a consumer's holders hold together; without one, ``UNFINISHED_MAX`` is."""

CLAIM_DELIVERIES_MAX: Final = 1_000
"""Deliveries of one claim."""

CLAIM_BYTES_MAX: Final = 16 * 1024 * 1024
"""Events that one call of the database hands out, as written out. The rest stays ready."""

CLAIM_WAIT_SECONDS_MAX: Final = 30
"""How long a claim may wait for something to come; proxies close what is silent for longer."""

TOKENS_MAX: Final = 1_000
"""Deliveries that one call acknowledges, extends, gives back or sets aside."""

PUT_OUT_EVENTS: Final = 1_000
"""Events of a consumer that are put out in one step."""

PUT_OUT_POSITIONS: Final = 100_000
"""Positions that one step looks over: a rare query must not hold a consumer for long."""

UNFINISHED_MAX: Final = 20_000
"""Deliveries of a consumer that are out and not done. Beyond, nothing more is put out: one key
that waits for long must not fill the tables with all that is behind it."""

DEAD_LETTERS_MAX: Final = 10_000
"""Dead letters of a consumer. With so many it is not the events that are at fault, and nothing
more is put out (``stalled``) until some are replayed or dropped."""

DUE_DELIVERIES: Final = 1_000
"""Deliveries whose lease or delay is over that are taken back in one step."""

LAG_EVENTS_MAX: Final = 10_000
"""How far the events that a consumer has not reached yet are counted."""

CLAIM_GROUP_REQUESTS_MAX: Final = 64
"""Calls about one consumer that share one call of the stored function, as appends do."""

CLAIM_GROUP_DELIVERIES_MAX: Final = 1_000
"""Deliveries that those name and ask for together, where it is more than one call: whoever comes
meanwhile waits for all of them."""

CONSUMER_QUEUE_REQUESTS_MAX: Final = 2_000
"""Calls about one consumer that wait for their turn in one process, parked claims not counted."""

PARKED_CLAIMS_MAX: Final = 16_000
"""Claims of one process that wait for something to come, each some KiB; its tenants share them."""

CALLS_REMEMBERED_SECONDS: Final = 600
"""How long the answer to a keyed call that left no event is given again."""

DUE_LOOK_SECONDS: Final = 1.0
"""How often a busy consumer's leases and delays are looked at."""

PARKED_LOOK_SECONDS: Final = 0.5
"""How often a process looks, in one statement for all of a tenant's consumers, whether others
have given something back that a parked claim may have; a doorbell mostly says so before."""

BEHIND_SECONDS: Final = 0.01
"""How soon it is tried again to put out more, where another process was just doing so."""

UPKEEP_SECONDS: Final = 5.0
"""How often each process looks for consumers whose leases are over though nobody claims."""

CONSUMERS_SHOWN_MAX: Final = 1_000
"""Consumers, of all tenants, that the metrics show: each is seven series."""

CONSUMERS_SHOWN_SECONDS: Final = 5.0
"""For how long what was read for the metrics is shown again."""

UPKEEP_ROWS_MAX: Final = 5_000
"""Rows of what is over that are cleared away in one step."""

SET_ASIDE_DELIVERIES: Final = 100
"""Deliveries that are set aside in one step."""

SETTLED_LETTERS: Final = 1_000
"""Dead letters that are replayed or dropped in one step, where all are."""

# --- Policies and decisions ------------------------------------------------------------

POLICIES_MAX: Final = 1_000
"""Policies of one tenant."""

POLICY_VERSIONS_MAX: Final = 1_000
"""Versions of one policy: as many as a list shows on one page."""

POLICY_NAME_CHARACTERS_MAX: Final = 64
"""Of a policy's name: it stands in paths, in tags and in scopes."""

POLICY_BYTES_MAX: Final = 256 * 1024
"""A policy, written out without white space. The largest table that people can still read takes
a quarter of it."""

POLICY_BODY_BYTES_MAX: Final = 1024 * 1024
"""The body of a call that drafts one: an editor's file, with its white space and its layout."""

POLICY_NODES_MAX: Final = 100
"""Nodes of a decision graph."""

POLICY_ROWS_MAX: Final = 1_000
"""Rows of one decision table."""

POLICY_EXPRESSION_CHARACTERS_MAX: Final = 2_000
"""An expression of a rule: what nobody can read any more, nobody should decide by."""

POLICY_READS_MAX: Final = 50
"""Inputs that a policy takes from the book: each may be an item of the decision's condition."""

POLICY_EXAMPLES_MAX: Final = 200
"""Examples that a policy carries. Each is run when it is drafted."""

POLICIES_REMEMBERED_MAX: Final = 200
"""Compiled versions that one process keeps, of all tenants: some 300 KiB each for a large one."""

DECISION_BODY_BYTES_MAX: Final = 64 * 1024
"""The body of a call that asks for a decision: mostly inputs that are not in the book."""

DECISION_SIGNALS_MAX: Final = 1_000
"""Events that one decision may rest on. Beyond, a policy has to look at fewer types, or at what an
agent has summed up."""

DECISION_SIGNALS_BYTES_MAX: Final = 1024 * 1024
"""Their payloads together."""

DECISION_VALUES_MAX: Final = 131_072
"""Values that one decision takes from the book, those inside of lists and objects too: as many as a
record of 256 KiB could hold at all, since it holds them."""

DECISION_VALUES_IN_TURN: Final = 1_000
"""Its events times its inputs, up to which they are taken between two others; beyond, in a thread."""

DECISION_BYTES_IN_TURN: Final = 65_536
"""Payloads and answers that are read between two others; what is longer is read in a thread."""

DECISION_LOOKS_MAX: Final = 32
"""Decisions of one tenant whose signals are read in one statement: with the largest that they may
be, as much as two pages of events."""

DECISION_STEPS_MAX: Final = 5_000_000
"""The bytes of a decision's inputs, times how often its rules may look at all of them: 0.7 s at the
worst that was measured, lists made of long lists."""

DECISION_STEPS_IN_TURN: Final = 200_000
"""The same, up to which a decision is made between two others: some 30 ms at the worst. What takes
longer has a thread of its own, so that others are heard meanwhile."""

DECISION_TRIES_MAX: Final = 10
"""How often a decision is made anew because something that it read has changed meanwhile."""

WHOLE_NUMBER_MAX: Final = 2**53
"""The greatest number that an input may be: beyond, readers of JSON differ about it."""

# --- Reads and streams ------------------------------------------------------------

READ_STATEMENT_MILLISECONDS_MAX: Final = 10_000
"""How long one read may run in the database."""

READ_SECONDS_MAX: Final = 12.0
"""How long one read may take altogether: a server that has vanished sends no time-out."""

CONNECTION_WAIT_SECONDS_MAX: Final = 3.0
"""How long a read or a group may wait for a connection of the pool."""

STREAM_SUBSCRIBERS_MAX: Final = 1_000
"""Live subscribers of one process; its tenants share them (``MUCH_HELD_SIXTEENTHS_MAX``)."""

STREAM_PAGE_EVENTS: Final = 500
"""Events that a stream which is behind, or the feed of all streams, reads at once."""

STREAM_PAGE_BYTES_MAX: Final = 1024 * 1024
"""Bytes of those events; each stream that is behind may hold so many."""

STREAM_BUFFER_EVENTS_MAX: Final = 1_000
"""Events held for one slow subscriber; beyond, it is sent back to reading the table."""

STREAM_BUFFER_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes held for one slow subscriber."""

STREAM_WRITE_SECONDS_MAX: Final = 30.0
"""How long one write to a subscriber may wait before it counts as gone: a caller that
reads nothing would otherwise keep its place for ever."""

STREAM_HEARTBEAT_SECONDS: Final = 15.0
"""A quiet stream says this often where it stands; proxies close what is silent for 30."""

STREAM_POLL_SECONDS: Final = 0.25
"""How often the follower looks for a new head when no doorbell rang."""

SHUTDOWN_SECONDS_MAX: Final = 20.0
"""How long a stopping process may take to finish what it has accepted."""

RETRY_AFTER_SECONDS: Final = 1
"""What ``Retry-After`` says when the service is busy or the database is away."""
