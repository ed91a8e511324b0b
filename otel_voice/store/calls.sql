-- What lists filter by and plots count, apart from the sessions' rows: these are a tenth as wide, and all of them are
-- read in a few dozen milliseconds. Made in a store that has none yet, from the summaries that it has.
CREATE TABLE calls (
    no            INTEGER PRIMARY KEY,
    changed_at    REAL NOT NULL DEFAULT 0,
    id            TEXT NOT NULL,
    started_at    REAL NOT NULL,
    ended_at      REAL,
    status        TEXT NOT NULL DEFAULT 'open',
    end_reason    TEXT,
    user_id       TEXT,
    agent_name    TEXT,
    provider      TEXT,
    model         TEXT,
    duration_ms   REAL NOT NULL DEFAULT 0,
    turns         INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    tools         INTEGER NOT NULL DEFAULT 0,
    tool_errors   INTEGER NOT NULL DEFAULT 0,
    p50_ms        REAL,
    p95_ms        REAL,
    tokens        INTEGER NOT NULL DEFAULT 0,
    lost          INTEGER NOT NULL DEFAULT 0
);

INSERT INTO calls
SELECT no, 0, id, started_at, json_extract(json, '$.ended_at'), coalesce(json_extract(json, '$.status'), 'open'),
       json_extract(json, '$.end_reason'), json_extract(json, '$.user_id'), json_extract(json, '$.agent_name'),
       json_extract(json, '$.provider'), json_extract(json, '$.model'),
       coalesce(json_extract(json, '$.duration_ms'), 0), coalesce(json_extract(json, '$.turn_count'), 0),
       coalesce(json_extract(json, '$.interruption_count'), 0), coalesce(json_extract(json, '$.tool_call_count'), 0),
       coalesce(json_extract(json, '$.tool_error_count'), 0),
       json_extract(json, '$.user_bot_latency_ms.p50'), json_extract(json, '$.user_bot_latency_ms.p95'),
       coalesce(json_extract(json, '$.tokens.input_tokens'), 0)
         + coalesce(json_extract(json, '$.tokens.output_tokens'), 0),
       coalesce(json_extract(json, '$.events_lost'), 0)
FROM (SELECT no, id, started_at, CASE WHEN json_valid(CAST(summary AS TEXT)) THEN CAST(summary AS TEXT) END AS json
      FROM sessions);

-- What was erased is still somewhere: 1 in the write-ahead log, 2 also in the index of words, until it was made anew.
INSERT INTO counters VALUES ('to_wipe', 0);
