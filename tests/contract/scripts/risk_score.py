# A script of the tutorial, word for word below this line; so no rule of ours applies to it.
# ruff: noqa: ANN001, ANN201, INP001, T201
# mypy: ignore-errors
import requests


def log_agent_event(agent_name, event_type, payload):
    response = requests.post(
        "http://localhost:8000/agent-events",
        json={
            "agent_name": agent_name,
            "event_type": event_type,
            "payload": payload,
        },
        timeout=5,
    )
    response.raise_for_status()
    return response.json()


result = log_agent_event(
    "risk_agent",
    "risk_score",
    {"customer_id": "cust_123", "score": 0.87, "decision": "review"},
)
print(result)
