// The reference's pure part: a document -> calls, types as words, a command.
import assert from "node:assert/strict";
import test from "node:test";

import { curlOf, fieldsOf, groupsOf, limitsOf, matches, piecesOf, schemasOf, typeOf, wordsOf } from "../../otel_voice/pages/reference.js";

const REF = "#/components/schemas/";
const DOCUMENT = {
  tags: [{ name: "Sessions", description: "First." }, { name: "Empty", description: "None." }],
  paths: {
    "/v1/sessions/{id}/events": {
      post: {
        tags: ["Sessions"],
        operationId: "postEvents",
        summary: "Takes events",
        security: [{ sessionToken: [] }],
        parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" }, example: "a b" }],
        requestBody: {
          description: "Not much.",
          required: true,
          content: {
            "application/json": { schema: { $ref: `${REF}Batch` }, example: { events: ["it's"] } },
            "text/plain": { schema: { type: "string", contentSchema: { $ref: `${REF}Batch` } }, example: "{}" },
          },
        },
        responses: {
          204: { description: "Taken.", headers: { "x-time": {} }, links: { readSession: { operationId: "readSession" } } },
          401: { $ref: "#/components/responses/Refused401" },
        },
      },
      get: {
        tags: ["Sessions"],
        operationId: "watch",
        summary: "Watches",
        security: [],
        responses: { 200: { description: "On.", content: { "text/event-stream": { schema: { type: "string" } } } } },
        parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" }, example: "a" }],
      },
      delete: {
        tags: ["Sessions"],
        operationId: "erase",
        summary: "Erases",
        security: [{ apiKey: [] }, { viewerCookie: [] }],
        responses: {},
        parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" }, example: "a" }],
      },
    },
  },
  components: {
    schemas: {
      Batch: {
        type: "object",
        description: "Events.",
        properties: { events: { type: "array", items: { $ref: `${REF}Event` }, maxItems: 1000 }, source: { type: ["string", "null"] } },
        required: ["events"],
      },
      Event: { oneOf: [{ $ref: `${REF}Mark` }, { $ref: `${REF}Error` }] },
    },
    responses: {
      Refused401: {
        description: "Nobody.",
        headers: {},
        content: { "application/json": { schema: { $ref: `${REF}Refusal` } } },
      },
    },
    securitySchemes: { apiKey: { description: "App." }, sessionToken: { description: "Page." }, viewerCookie: { description: "Viewer." } },
  },
};

const [{ calls }, empty] = groupsOf(DOCUMENT);
const [post, watch, erase] = calls;

test("calls stand in their groups", () => {
  assert.deepEqual(calls.map(({ id, method, path }) => [id, method, path]), [
    ["postEvents", "POST", "/v1/sessions/{id}/events"],
    ["watch", "GET", "/v1/sessions/{id}/events"],
    ["erase", "DELETE", "/v1/sessions/{id}/events"],
  ]);
  assert.deepEqual(empty.calls, []);
});

test("a call says who may, what it takes and what it answers", () => {
  assert.deepEqual(post.may, ["Page."]);
  assert.deepEqual(erase.may, ["App.", "Viewer."]);
  assert.deepEqual([post.parameters[0].name, post.parameters[0].place, post.parameters[0].isRequired], ["id", "path", true]);
  assert.deepEqual([post.body.media, post.body.type, post.body.isRequired], [["application/json", "text/plain"], [{ ref: "Batch" }], true]);
  assert.deepEqual(post.body.fields.map(({ name, isRequired }) => [name, isRequired]), [["events", true], ["source", false]]);
  assert.deepEqual(post.answers, [
    { status: "204", description: "Taken.", headers: ["x-time"], content: [], later: ["readSession"] },
    { status: "401", description: "Nobody.", headers: [], content: [{ media: "application/json", type: [{ ref: "Refusal" }] }], later: [] },
  ]);
});

test("schemas have fields, or are one of several", () => {
  const [batch, event] = schemasOf(DOCUMENT);
  assert.deepEqual([batch.name, batch.description, batch.fields.length], ["Batch", "Events.", 2]);
  assert.deepEqual([event.fields, event.oneOf], [[], ["Mark", "Error"]]);
  assert.deepEqual(fieldsOf({}), []);
});

const TYPES = [
  [{ type: "string" }, ["string"]],
  [{ type: ["string", "null"] }, ["string", " or ", "null"]],
  [{ $ref: `${REF}Event` }, [{ ref: "Event" }]],
  [{ anyOf: [{ $ref: `${REF}Clock` }, { type: "null" }] }, [{ ref: "Clock" }, " or ", "null"]],
  [{ anyOf: [{ type: "number" }, { const: "" }] }, ["number", " or ", '""']],
  [{ enum: ["user", "agent"] }, ['"user" or "agent"']],
  [{ type: "array", items: { $ref: `${REF}Event` } }, ["array of ", { ref: "Event" }]],
  [{ type: "array", prefixItems: [{ type: "string" }, { type: "integer" }], items: false }, ["array of ", "string", " and ", "integer"]],
  [{ type: "object", additionalProperties: { type: "integer" } }, ["object of ", "integer"]],
  [{ type: "object", additionalProperties: false }, ["object"]],
  [
    { type: ["object", "null"], additionalProperties: { anyOf: [{ type: "string" }, { type: "number" }] } },
    ["object of ", "(", "string", " or ", "number", ")", " or ", "null"],
  ],
  [{ type: "string", contentSchema: { $ref: `${REF}Batch` } }, [{ ref: "Batch" }, " as text"]],
  [{}, ["anything"]],
];

for (const [schema, type] of TYPES) {
  test(`the type of ${JSON.stringify(schema)} in words`, () => assert.deepEqual(typeOf(schema), type));
}

const LIMITS = [
  [{ type: "string" }, ""],
  [{ minLength: 1, maxLength: 1256 }, "1 to 1,256 characters"],
  [{ maxLength: 128, default: null }, "at most 128 characters"],
  [{ minimum: 0, maximum: 10 }, "0 to 10"],
  [{ anyOf: [{ minimum: 0 }, { const: "" }] }, "from 0"],
  [{ maxItems: 50 }, "at most 50"],
  [{ maxProperties: 3, default: {} }, "at most 3 names, by default {}"],
  [{ pattern: "^a$" }, "like ^a$"],
  [{ default: false }, "by default false"],
];

for (const [schema, limits] of LIMITS) {
  test(`the limits of ${JSON.stringify(schema)} in words`, () => assert.equal(limitsOf(schema), limits));
}

test("a text's code is code, and a link where it is a schema", () => {
  assert.deepEqual(piecesOf("see `Event` or `seq`.", new Set(["Event"])), ["see ", { ref: "Event" }, " or ", { code: "seq" }, "."]);
  assert.deepEqual(piecesOf("`a`", new Set()), [{ code: "a" }]);
  assert.deepEqual(piecesOf("", new Set()), []);
});

test("a command has the key, the type and the body, quoted for a shell", () => {
  assert.equal(
    curlOf(post, "http://127.0.0.1:1"),
    `curl -s 'http://127.0.0.1:1/v1/sessions/a%20b/events' \\
  -H "authorization: Bearer $TOKEN" \\
  -H 'content-type: application/json' \\
  --data-binary '{"events":["it'\\''s"]}'`,
  );
  assert.equal(curlOf(watch, "http://h"), "curl -sN 'http://h/v1/sessions/a/events'");
  assert.match(curlOf(erase, "http://h"), /^curl -s -X DELETE 'http.*\n {2}-H "authorization: Bearer \$OTEL_VOICE_API_KEY"$/);
});

test("a filter looks for all of its words in names, paths and fields", () => {
  assert.ok(matches(wordsOf(post), "POST events"));
  assert.ok(matches(wordsOf(post), "source"));
  assert.ok(!matches(wordsOf(post), "post nothing"));
  assert.ok(matches(wordsOf(schemasOf(DOCUMENT)[0]), "batch"));
  assert.ok(matches(wordsOf(erase), ""));
});
