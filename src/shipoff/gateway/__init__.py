"""The platform's face: REST `/v1`, the WebSocket of logs, webhooks, and the OpenAPI document that describes them.

Streams: none. It stores nothing: every answer comes from the service that owns the object.
Invariants:
- every object of a team is reached through access.py, which checks the caller's role in that team;
- another team's object is answered exactly like one that does not exist;
- a body is never held in memory beyond its cap, a source archive never as a whole;
- every error is a problem document (RFC 9457) with the request's id.
"""
