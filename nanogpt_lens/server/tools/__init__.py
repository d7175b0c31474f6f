"""The tools of the MCP server, one a file, each a step of research."""
