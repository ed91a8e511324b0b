-- Since when (ms) a span is on its way; unknown of those that an earlier version made.
ALTER TABLE outbox ADD COLUMN at REAL;
