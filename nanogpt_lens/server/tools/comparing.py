"""`compare`: what differs between two of the models."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer

from nanogpt_lens.server.mcp_desk import Desk


def register(server: MCPServer, desk: Desk) -> None:
    """Add the tool."""
