"""The page at `/docs`: the OpenAPI document for people, without a script and without a network."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}code,pre{font-family:ui-monospace,monospace;font-size:13px}"
    "pre{background:#f4f4f2;padding:.7rem;overflow:auto}details{border-top:1px solid #ddd;padding:.5rem 0}"
    "summary{cursor:pointer}b{display:inline-block;min-width:4.5rem}table{border-collapse:collapse;margin:.5rem 0}"
    "td{vertical-align:top;padding:.15rem .8rem .15rem 0}"
)


def page(document: Mapping[str, Any]) -> str:
    """The page of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    parts = [f"<p>{_text(document['info']['description'])}</p>"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation, schemas))
    parts.append('<h2>The same for programs</h2><p><a href="/openapi.json">/openapi.json</a></p>')
    title = _text(document["info"]["title"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title} over HTTP</h1>{''.join(parts)}</html>"
    )


def start_page(models: Mapping[str, str]) -> str:
    """The page at `/`: the lab of every model, and where the rest is described.

    Args:
        models: the Python that loads each, by name.
    """
    rows = "".join(
        f'<tr><td><a href="/lab/{quote(name)}">{_text(name)}</a><td><code>{_text(python)}</code>'
        for name, python in models.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>nanogpt-lens</title><style>{_STYLE}</style>'
        "<h1>nanogpt-lens</h1><h2>The lab: change a model, and watch what it says</h2>"
        f'<table>{rows}</table><h2>For programs</h2><p><a href="/docs">What can be asked over HTTP</a></p></html>'
    )


def _operation(path: str, method: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    rows = [
        (f"{p['name']} ({p['in']})", p.get("description", ""))
        for p in operation.get("parameters", ())
        if p["in"] != "header"
    ]
    example = ""
    if "requestBody" in operation:
        body = operation["requestBody"]["content"].get("application/json", {}).get("schema", {})
        body = schemas.get(_name(body), body)  # one that has a name, or one written out
        rows += _fields(body)
        for some in body.get("examples", ()):
            example += f"<pre>{_text(json.dumps(some, ensure_ascii=False, indent=1))}</pre>"
    answers = []
    for status, response in operation["responses"].items():
        schema = response.get("content", {}).get("application/json", {}).get("schema", {})
        answers.append((status, response.get("description", "")))
        if status == "200" and _name(schema) in schemas:
            answers += _fields(schemas[_name(schema)])
    about = _text(operation.get("description", ""))
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{_text(path)}</code> {about}"
        f"</summary>{_table('Takes', rows)}{example}{_table('Answers', answers)}</details>"
    )


def _fields(schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, f.get("description", "")) for name, f in schema.get("properties", {}).items()]


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr><td><code>{_text(name)}</code><td>{_text(words)}" for name, words in rows)
    return f"<p>{title}</p><table>{lines}</table>"


def _text(words: str) -> str:
    return html.escape(str(words))
