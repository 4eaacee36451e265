"""Out and in by HTTP: the API, served by Granian.

Every way in that takes many rows is a plain ASGI function (`doors/`); what people and tools ask is FastAPI. Both stand behind
one `Front`, which knows hosts, keys, limits and logs, so that no route can forget them.
"""
