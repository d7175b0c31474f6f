"""The replication of induction heads: what is measured on the trained models, claim by claim."""
