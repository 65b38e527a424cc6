# A script of the tutorial, word for word below this line; so no rule of ours applies to it.
# ruff: noqa: INP001, S113, T201
# mypy: ignore-errors
import requests

event = {
    "agent_name": "fraud_agent",
    "event_type": "flag_transaction",
    "payload": {
        "transaction_id": "tx_987",
        "reason": "velocity_threshold_exceeded",
    },
}

response = requests.post("http://localhost:8000/agent-events", json=event)
print(response.json())

response = requests.get("http://localhost:8000/agent-events/fraud_agent")
print(response.json())
