"""The tutorial's design as a program: what a team writes in an afternoon, and then keeps.

Written anew, with what such tutorials have in common: synchronous endpoints, which the
framework runs in threads; a connection for each request; one table with a serial key and no
index on the agent; the latest 20 of an agent; a key in a header.

It is run by ``tutorial.py``, which sets DATABASE_URL and API_KEY and makes the table.
"""

import os
import secrets
from typing import Annotated, Any

import psycopg
from fastapi import Depends, FastAPI, Header, HTTPException
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import BaseModel

DATABASE_URL = os.environ["DATABASE_URL"]
API_KEY = os.environ["API_KEY"]


class AgentEvent(BaseModel):
    """What an agent reports."""

    agent_name: str
    event_type: str
    payload: dict[str, Any]


def check_key(x_api_key: Annotated[str, Header()]) -> None:
    """Refuse a call without the key."""
    if not secrets.compare_digest(x_api_key, API_KEY):
        raise HTTPException(status_code=401, detail="Invalid API key")


app = FastAPI(dependencies=[Depends(check_key)])


@app.post("/agent-events")
def create_event(event: AgentEvent) -> dict[str, Any]:
    """Store one event."""
    with psycopg.connect(DATABASE_URL, row_factory=dict_row) as connection:
        row = connection.execute(
            """
            insert into agent_events (agent_name, event_type, payload)
            values (%s, %s, %s)
            returning id, created_at
            """,
            (event.agent_name, event.event_type, Jsonb(event.payload)),
        ).fetchone()
    assert row is not None
    return {**row, "status": "stored"}


@app.get("/agent-events/{agent_name}")
def list_events(agent_name: str) -> list[dict[str, Any]]:
    """The agent's latest 20 events, newest first."""
    with psycopg.connect(DATABASE_URL, row_factory=dict_row) as connection:
        return connection.execute(
            """
            select id, agent_name, event_type, payload, created_at
            from agent_events
            where agent_name = %s
            order by created_at desc
            limit 20
            """,
            (agent_name,),
        ).fetchall()
