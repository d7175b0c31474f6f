"""The package asked from outside: over HTTP, and as MCP."""
