"""The catalogue of problems: everything that a call can be refused with, in one table.

A problem document's ``type`` is the relative address ``/problems/<name>``; the service
serves the page of each itself, so that an error in a log leads to its explanation on the
very version that raised it. A name is a promise: it never changes its meaning.
"""

from dataclasses import dataclass
from html import escape
from typing import Final

import msgspec

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of refusal, as it is explained to callers."""

    name: str
    status: int
    title: str
    meaning: str
    remedy: str

    @property
    def uri(self) -> str:
        """What stands in ``type``."""
        return f"/problems/{self.name}"


MALFORMED_DOCUMENT = ProblemType(
    "malformed-document",
    400,
    "The body is not one well-formed JSON document",
    "The body is missing, or is not exactly one JSON document: it is not UTF-8, starts with a "
    "byte order mark, breaks JSON's grammar, or holds NaN or Infinity. Nothing was stored.",
    "Send what a JSON library writes. `detail` says line and column.",
)
INVALID_INPUT = ProblemType(
    "invalid-input",
    422,
    "Something in the request breaks a rule",
    "The request was read, and at least one of its fields is missing, unknown, repeated, of the "
    "wrong type, or outside its limits; or the JSON holds what cannot be kept exactly: a key twice "
    "in one object, U+0000, half of a surrogate pair, a number that is too long, nesting that is "
    "too deep. Nothing was stored; of a batch neither.",
    "Each entry of `errors` names the part of the request (`in`), points at the field "
    "(`pointer`, RFC 6901) and says what would be accepted. Encode binary data, for example as "
    "base64, before it goes into a string.",
)
MALFORMED_REQUEST = ProblemType(
    "malformed-request",
    400,
    "This is not an HTTP request",
    "What arrived on the connection breaks HTTP's grammar, so that not even its path could be "
    "read. The connection was closed.",
    "Use an HTTP library, and `https` only where something in front of the service speaks it.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    415,
    "The body is not declared as JSON",
    "Bodies are read as JSON in UTF-8, and only if they say so.",
    "Send `Content-Type: application/json`, and no `Content-Encoding`.",
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    413,
    "The body is longer than this call accepts",
    "Reading stopped at the limit that `detail` gives. Nothing was stored.",
    "Split a batch. Keep files elsewhere, and put their address and digest into the payload.",
)
BODY_TOO_SLOW = ProblemType(
    "body-too-slow",
    408,
    "The body did not arrive in time",
    "The request announced a body that did not arrive within the time for it. Nothing was stored.",
    "Send the request again. With an `Idempotency-Key` that is always safe.",
)
HEADERS_TOO_LARGE = ProblemType(
    "headers-too-large",
    431,
    "The request line and headers are more than the service accepts",
    "They are too long, or too many; `detail` says which. The connection was closed.",
    "Send a long query in the body of `POST /events/query`, and fewer headers.",
)
AFTER_ABOVE_HEAD = ProblemType(
    "after-above-head",
    422,
    "A position was given that the book has not reached",
    "An `after` above the head cannot come from a read of this book, so nothing could be said "
    "about what came since. Nothing was stored.",
    "Use the `head` that a read returned (or the header `Counterfoil-Head`).",
)
UNKNOWN_CAUSE = ProblemType(
    "unknown-cause",
    422,
    "A cause is not in the book",
    "`caused_by` names an event that does not exist, or not yet. An event can only rest on "
    "earlier ones. Nothing was stored.",
    "Give ids of events that were read or whose storing was acknowledged before.",
)
UNAUTHENTICATED = ProblemType(
    "unauthenticated",
    401,
    "This call needs the service's key",
    "The call brought no key, or not the right one. The two are not told apart.",
    "Send `Authorization: Bearer <key>` or `X-API-Key: <key>`.",
)
SCOPE_MISSING = ProblemType(
    "scope-missing",
    403,
    "The key may not do this",
    "The key is right, and its scopes do not allow this call, or not all of what it asks for. "
    "`scope` is one with which it would be. A read is refused as soon as it could show an event "
    "that the key may not see: it is never shortened, because a decision would then rest on a part "
    "of what there is. Nothing was stored.",
    "Ask for less: name the types, and the tag, that the key was given (`GET /me` shows its "
    "scopes). Or have whoever manages keys make one with the scope.",
)
NAME_NOT_YOURS = ProblemType(
    "name-not-yours",
    403,
    "The key writes under another name",
    "A key belongs to one agent, person or service, and writes events under that name only: "
    "`agent_name` must be it. Nothing was stored.",
    "Write under the name of the key, which is given as `agent_name` in this document, or use the "
    "key of the agent that you write for.",
)
RATE_LIMITED = ProblemType(
    "rate-limited",
    429,
    "The key calls too often",
    "The key has used up the calls that it may make for now. Nothing of this one was read, and "
    "nothing was stored. The limit is that of one worker process of the service.",
    "Wait as long as `Retry-After` says, and call less often: the headers `RateLimit-Policy` and "
    "`RateLimit` tell how much is left. Send events in batches.",
)
KEY_NOT_FOUND = ProblemType(
    "key-not-found",
    404,
    "There is no such key",
    "The tenant has no key with this id.",
    "`GET /keys` lists them. The id is the part of a key's text between its second and third `_`.",
)
KEY_NOT_ACTIVE = ProblemType(
    "key-not-active",
    409,
    "The key opens nothing any more",
    "The key was revoked or has expired, so no other can take its place.",
    "Make a new key.",
)
TENANT_EXISTS = ProblemType(
    "tenant-exists",
    409,
    "The name is taken",
    "There is a tenant of this name already. Nothing was made.",
    "Choose another name. A retry of the call that made it needs its `Idempotency-Key`.",
)
TOO_MANY = ProblemType(
    "too-many",
    409,
    "There are as many as there may be",
    "The tenant has as many keys, event types, freezes, consumers or policies as a tenant may have, "
    "or the policy as many versions as a policy may. Nothing was made.",
    "Revoke keys, thaw what is frozen, or delete consumers that nobody needs any more. Policies stay: "
    "draft a new version of one that is there, or where versions are all taken, a policy of another name.",
)
CONSUMER_NOT_FOUND = ProblemType(
    "consumer-not-found",
    404,
    "There is no such consumer",
    "The tenant has no consumer of this name.",
    "`GET /consumers` lists them; `PUT /consumers/{name}` makes one.",
)
CONSUMER_STARTED = ProblemType(
    "consumer-started",
    409,
    "The consumer has begun",
    "What was to be changed is settled once a consumer has begun to hand out: its start, its order, "
    "and its query unless that is asked for by name. Nothing was changed.",
    "Each entry of `errors` points at a field and says what would do it.",
)
CONSUMER_HAS_DEAD_LETTERS = ProblemType(
    "consumer-has-dead-letters",
    409,
    "Dead letters would be lost",
    "The consumer has dead letters, and they would go with it. Nothing was deleted.",
    "Replay or drop them, or delete the consumer with `?dead_letters=drop`.",
)
DEAD_LETTER_NOT_FOUND = ProblemType(
    "dead-letter-not-found",
    404,
    "There is no such dead letter",
    "The consumer has set no delivery of this event aside, or it was replayed or dropped since. "
    "Where several were named, nothing was done with any of them.",
    "`GET /consumers/{name}/dead-letters` lists them.",
)
LEASE_LOST = ProblemType(
    "lease-lost",
    409,
    "The work belongs to another now",
    "At least one of the tokens is not, or no more, a lease of this key: its time is over, it was "
    "given back, or the consumer was led to another place. Nothing was done, and nothing written. "
    "`lost` holds those tokens.",
    "Drop that work: its event is handed out again, perhaps to you. What is not in `lost` is still "
    "held, and can be sent again by itself. Work that takes long has to extend its lease in time.",
)
EVENT_TYPE_NOT_FOUND = ProblemType(
    "event-type-not-found",
    404,
    "This event type is not registered",
    "The tenant has registered no schema for this type, or no version of this number.",
    "`GET /event-types` lists those that are.",
)
PAYLOAD_MISMATCH = ProblemType(
    "payload-mismatch",
    422,
    "The payload does not fit its event type",
    "The event's type is registered with a schema, and the payload does not fit its active "
    "version, which `version` names. Nothing was stored; of a batch neither.",
    "Each entry of `errors` points at the field. `GET /event-types/{type}` shows the schema.",
)
EVENT_TYPE_UNREGISTERED = ProblemType(
    "event-type-unregistered",
    422,
    "Only registered event types are accepted here",
    "The tenant's setting `unregistered_types` is `refused`, and the event's type has no schema. "
    "Nothing was stored; of a batch neither.",
    "Check the spelling of the type. Have it registered with `PUT /event-types/{type}`.",
)
NARROWING_CHANGE = ProblemType(
    "narrowing-change",
    409,
    "The schema may refuse what was accepted",
    "The new version of a schema may refuse payloads that the version before accepted, as far as "
    "can be told from the two; `errors` says where. Agents that write such payloads would be "
    "refused from now on. Nothing was registered.",
    "Widen the schema instead. If it is meant, send `narrowing: true` with a `reason`.",
)
FROZEN = ProblemType(
    "frozen",
    423,
    "What this writes about is frozen",
    "The agent, a tag of an event, or the whole book was frozen; `freeze` says which, by whom, "
    "why, and until when. Nothing was stored. Reading goes on as before.",
    "Read the reason, and talk to who froze it. Whoever may manage the brake thaws it with "
    "`POST /freezes/{id}/thaw`.",
)
FREEZE_NOT_FOUND = ProblemType(
    "freeze-not-found",
    404,
    "Nothing is frozen under this id",
    "There is no such freeze, it has ended, or it was thawed.",
    "`GET /freezes` lists those in force. The book tells of the others: events of the types "
    "`counterfoil.frozen` and `counterfoil.thawed`.",
)
FOREIGN_HOST = ProblemType(
    "foreign-host",
    421,
    "A service without a key answers to this machine's own names only",
    "No key is configured, and the call's `Host` is neither `localhost` nor a loopback address. A "
    "web page can make a browser call this machine under a name of the page's own.",
    "Call `http://localhost:<port>`. To be reached under another name, set API_KEY.",
)
POLICY_REFUSED = ProblemType(
    "policy-refused",
    422,
    "The policy may not be published",
    "Something in the policy could decide on a guess, cannot be read by the engine, reads what is "
    "forbidden, contradicts itself, or an example of it does not come out as it says. Nothing was "
    "drafted.",
    "Each entry of `errors` points at the place in the policy and says what would be accepted. "
    "`counterfoil policies lint FILE` says the same without a service.",
)
POLICY_NOT_FOUND = ProblemType(
    "policy-not-found",
    404,
    "There is no such policy",
    "The tenant has no policy of this name, or no such version of it.",
    "`GET /policies` lists them; `GET /policies/{name}/versions` shows the versions of one.",
)
POLICY_NOT_ACTIVE = ProblemType(
    "policy-not-active",
    409,
    "No version of the policy is in force",
    "The policy has drafts or retired versions only, and nothing is decided by these. Nothing was "
    "written.",
    "Let somebody else than its author activate a version: "
    "`POST /policies/{name}/versions/{version}/activate`.",
)
FOUR_EYES = ProblemType(
    "four-eyes",
    409,
    "It needs a second pair of eyes",
    "Who has drafted a version of a policy cannot put it in force; keys of two kinds with one name "
    "are the same person's. Nothing was changed.",
    "Let somebody else look at it and activate it, with a key of their own.",
)
SUBJECT_WITHOUT_EVENTS = ProblemType(
    "subject-without-events",
    404,
    "Nothing is known about the subject",
    "The book has no event about this subject that the policy reads, so there is nothing to decide "
    "on. Nothing was written.",
    "Check the spelling of the tag, `kind:value`, and that the events bear it.",
)
DECISION_INPUTS_REFUSED = ProblemType(
    "decision-inputs-refused",
    422,
    "The inputs are not what the policy asks for",
    "An input is missing, too old, erased, of the wrong type, beyond 2^53, does not fit the policy's "
    "schema, or was sent though the policy does not take it from the call; or a decision would rest "
    "on more events than it may, or its record would be too long. A decision is never made on a guess: "
    "nothing was decided, nothing written.",
    "An entry of `errors` at `/inputs/<name>` names an input, and the events that it came from, if any: "
    "have these corrected, or send what the policy takes, and ask again. One at `/subject` says that "
    "there is too much: let the policy read fewer events, or sums that an agent keeps.",
)
NOT_DECIDED = ProblemType(
    "not-decided",
    422,
    "The rules came to no decision",
    "No row of a table fits these inputs, or an expression comes to nothing (a division by zero is "
    "nothing), so that whatever came next would be a guess. Nothing was written.",
    "The inputs are right, and the policy does not cover them: its author has to add a row, say what "
    "a missing value counts as, or refuse such inputs in its schema.",
)
DECISION_STANDS = ProblemType(
    "decision-stands",
    409,
    "A decision stands already",
    "At most one decision of a policy stands about a subject, and it is `decision` in this document. "
    "Nothing was written.",
    "Use that decision. If it is to be replaced, say so by name: send `supersedes` with its id and a "
    "reason.",
)
DECISION_NOT_FOUND = ProblemType(
    "decision-not-found",
    404,
    "There is no such decision",
    "No event of this id is a decision, or its record was erased.",
    "`GET /decisions` lists them, by policy and by subject.",
)
NOT_FOUND = ProblemType(
    "not-found",
    404,
    "There is nothing at this address",
    "No call of this service has this path.",
    "See `/docs` or `/openapi.json` for the calls that exist. Paths have no slash at their end.",
)
EVENT_NOT_FOUND = ProblemType(
    "event-not-found",
    404,
    "There is no event with this id",
    "Ids are the positions 1, 2, 3 … without gaps, so this one lies above the head.",
    "Read on from the head, or follow `/events/stream`.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    405,
    "This address takes other methods",
    "The path exists, and the header `Allow` says with which methods.",
    "Use one of those.",
)
CONDITION_FAILED = ProblemType(
    "condition-failed",
    409,
    "Something that this decision relied on has changed",
    "An event that matches the condition's `fail_if` has a position above its `after`. Nothing "
    "was stored. `conflicts` holds the first such events (at most 20), and `head` the book's "
    "last position at the time of the check.",
    "Look at `conflicts`, read again, decide again, and write with the new `head` as `after`. "
    "The same `Idempotency-Key` may be used: refusals are not kept.",
)
BOOK_RESTORED = ProblemType(
    "book-restored",
    409,
    "The book was restored from a backup since",
    "A cursor, stream id or condition belongs to an earlier incarnation of the book. Positions "
    "may have been used anew, so reading on from there could skip or mix events. Nothing was "
    "stored.",
    "Forget what was read from the earlier incarnation, and read again from the start.",
)
IDEMPOTENCY_MISMATCH = ProblemType(
    "idempotency-mismatch",
    422,
    "This Idempotency-Key was used for other content",
    "The same principal stored something else under this key. Nothing was stored now.",
    "Make a new key for each new logical call, and repeat it only with the same content.",
)
BUSY = ProblemType(
    "busy",
    503,
    "The service has more to do than it accepts",
    "Too much is waiting, or the book could not be had in time. Nothing was stored.",
    "Send the same request again after the seconds in `Retry-After`, and longer each time.",
)
NOT_WRITTEN = ProblemType(
    "not-written",
    503,
    "The event was not written",
    "The database could not be reached or refused. It is certain that nothing was stored.",
    "Send the same request again after the seconds in `Retry-After`.",
)
OUTCOME_UNKNOWN = ProblemType(
    "outcome-unknown",
    503,
    "It is not known whether the event was written",
    "The connection to the database was lost, or gave no answer, after the append was sent: it "
    "may be stored or not.",
    "With an `Idempotency-Key`, send the same request again: it is stored once either way. "
    "Without one, read before you write again.",
)
DATABASE_UNAVAILABLE = ProblemType(
    "database-unavailable",
    503,
    "The database cannot be reached",
    "The read could not be answered. The service recovers by itself when the database is back.",
    "Send the same request again after the seconds in `Retry-After`.",
)
READ_TOO_SLOW = ProblemType(
    "read-too-slow",
    503,
    "The read ran into its time limit",
    "The database took longer than one read may. Nothing is wrong with the request as such.",
    "Ask for less: fewer items, a narrower range (`after`, `up_to`), a smaller `limit`, a tag "
    "beside `payload`.",
)
NOT_READY = ProblemType(
    "not-ready",
    503,
    "The service is not ready",
    "At least one of its own checks fails; `checks` says which. Platforms should send calls to "
    "another instance.",
    "Repair what the check names. The service recovers by itself.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "The service made a mistake",
    "Something happened that the service's own rules exclude. It was logged under `request_id`.",
    "Report the `request_id`. Whether a write took place can be seen by reading, or by sending "
    "it again with the same `Idempotency-Key`.",
)

CATALOGUE: Final[dict[str, ProblemType]] = {
    problem.name: problem
    for problem in (
        MALFORMED_REQUEST,
        MALFORMED_DOCUMENT,
        INVALID_INPUT,
        UNSUPPORTED_MEDIA_TYPE,
        BODY_TOO_LARGE,
        BODY_TOO_SLOW,
        HEADERS_TOO_LARGE,
        UNAUTHENTICATED,
        FOREIGN_HOST,
        SCOPE_MISSING,
        NAME_NOT_YOURS,
        RATE_LIMITED,
        NOT_FOUND,
        EVENT_NOT_FOUND,
        KEY_NOT_FOUND,
        EVENT_TYPE_NOT_FOUND,
        FREEZE_NOT_FOUND,
        METHOD_NOT_ALLOWED,
        CONDITION_FAILED,
        FROZEN,
        PAYLOAD_MISMATCH,
        EVENT_TYPE_UNREGISTERED,
        NARROWING_CHANGE,
        KEY_NOT_ACTIVE,
        TENANT_EXISTS,
        TOO_MANY,
        CONSUMER_NOT_FOUND,
        CONSUMER_STARTED,
        CONSUMER_HAS_DEAD_LETTERS,
        DEAD_LETTER_NOT_FOUND,
        LEASE_LOST,
        POLICY_REFUSED,
        POLICY_NOT_FOUND,
        POLICY_NOT_ACTIVE,
        FOUR_EYES,
        SUBJECT_WITHOUT_EVENTS,
        DECISION_INPUTS_REFUSED,
        NOT_DECIDED,
        DECISION_STANDS,
        DECISION_NOT_FOUND,
        AFTER_ABOVE_HEAD,
        UNKNOWN_CAUSE,
        BOOK_RESTORED,
        IDEMPOTENCY_MISMATCH,
        BUSY,
        NOT_WRITTEN,
        OUTCOME_UNKNOWN,
        DATABASE_UNAVAILABLE,
        READ_TOO_SLOW,
        NOT_READY,
        INTERNAL_ERROR,
    )
}
"""Every problem type by its name, in the order in which the pages list them."""


def document(
    problem: ProblemType,
    detail: str,
    *,
    request_id: str,
    members: dict[str, object] | None = None,
) -> bytes:
    """Write one problem document (RFC 9457).

    ``members`` are its extensions; a ``msgspec.Raw`` among them is put in as it is.
    """
    return msgspec.json.encode(
        {
            "type": problem.uri,
            "title": problem.title,
            "status": problem.status,
            "detail": detail,
            **(members or {}),
            "request_id": request_id,
        }
    )


_PAGE: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem;
  color-scheme: light dark; }}
code {{ font-family: ui-monospace, monospace; }}
td, th {{ text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(problem: ProblemType) -> str:
    """Write the HTML page that ``type`` leads to."""
    body = (
        f"<p><a href='/problems'>All problems</a></p>\n"
        f"<h1>{escape(problem.title)}</h1>\n"
        f"<p><code>{escape(problem.uri)}</code>, status {problem.status}</p>\n"
        f"<h2>What it means</h2>\n<p>{_with_code(problem.meaning)}</p>\n"
        f"<h2>What to do</h2>\n<p>{_with_code(problem.remedy)}</p>"
    )
    return _PAGE.format(title=escape(problem.title), body=body)


def index_page() -> str:
    """Write the HTML page that lists every problem type."""
    rows = "\n".join(
        f"<tr><td>{problem.status}</td><td><a href='{problem.uri}'><code>{problem.name}</code></a>"
        f"</td><td>{escape(problem.title)}</td></tr>"
        for problem in CATALOGUE.values()
    )
    body = (
        "<h1>Problems</h1>\n<p>Every refusal of this service is a problem document (RFC 9457) of "
        "one of these types.</p>\n<table>\n<tr><th>Status</th><th>Type</th><th>Title</th></tr>\n"
        f"{rows}\n</table>"
    )
    return _PAGE.format(title="Problems", body=body)


def _with_code(sentence: str) -> str:
    """Escape a sentence, and show what stands between backquotes as code."""
    parts = escape(sentence).split("`")
    return "".join(
        f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts)
    )
