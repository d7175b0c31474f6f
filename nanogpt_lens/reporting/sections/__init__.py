"""The sections of the report, a file each: the analyses that it calls, and what it makes of them."""
