// An OpenAPI document as a reader wants it: calls by group, types as words, an example as a command. Pure.

import { number } from "./format.js";

const KEY = { apiKey: "$OTEL_VOICE_API_KEY", sessionToken: "$TOKEN" };

/** The groups with their calls, in the document's order. */
export function groupsOf(document) {
  const calls = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => callOf(document, method, path, operation)),
  );
  return document.tags.map(({ name, description }) => ({ name, description, calls: calls.filter((call) => call.group === name) }));
}

function callOf(document, method, path, operation) {
  const schemes = document.components.securitySchemes;
  return {
    id: operation.operationId,
    group: operation.tags[0],
    method: method.toUpperCase(),
    path,
    summary: operation.summary,
    description: operation.description ?? "",
    who: operation.security.flatMap(Object.keys),
    may: operation.security.flatMap(Object.keys).map((name) => schemes[name].description),
    parameters: (operation.parameters ?? []).map((parameter) => fieldOf(parameter.name, parameter.schema, parameter)),
    examples: Object.fromEntries((operation.parameters ?? []).map(({ name, example }) => [name, example])),
    body: operation.requestBody ? bodyOf(document, operation.requestBody) : null,
    answers: Object.entries(operation.responses).map(([status, answer]) => answerOf(document, status, answer)),
  };
}

function bodyOf(document, { description, required, content }) {
  const [media, { schema, example }] = Object.entries(content)[0];
  const name = nameIn(schema);
  return {
    description,
    isRequired: Boolean(required),
    media: Object.keys(content),
    type: typeOf(schema),
    fields: name ? fieldsOf(document.components.schemas[name]) : [],
    example: { media, text: typeof example === "string" ? example : JSON.stringify(example) },
  };
}

function answerOf(document, status, said) {
  const answer = said.$ref ? at(document, said.$ref) : said;
  return {
    status,
    description: answer.description,
    headers: Object.keys(answer.headers ?? {}),
    content: Object.entries(answer.content ?? {}).map(([media, { schema }]) => ({ media, type: typeOf(schema) })),
    later: Object.keys(answer.links ?? {}),
  };
}

export function schemasOf(document) {
  return Object.entries(document.components.schemas).map(([name, schema]) => ({
    name,
    description: schema.description ?? "",
    fields: fieldsOf(schema),
    oneOf: (schema.oneOf ?? []).map(nameIn),
  }));
}

export function fieldsOf(schema) {
  const required = schema.required ?? [];
  const names = Object.keys(schema.properties ?? {});
  return names.map((name) => fieldOf(name, schema.properties[name], { required: required.includes(name) }));
}

function fieldOf(name, schema, { required = false, description, in: place }) {
  return {
    name,
    place: place ?? "",
    isRequired: required,
    type: typeOf(schema),
    limits: limitsOf(schema),
    description: description ?? schema.description ?? "",
  };
}

/** A type as words; what is the name of a schema is `{ ref }`. */
export function typeOf(schema) {
  if (schema.$ref) return [{ ref: nameIn(schema) }];
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return joined(several, " or ");
  if (schema.contentSchema) return [...typeOf(schema.contentSchema), " as text"];
  if (!schema.type) return ["anything"];
  return [schema.type].flat().flatMap((type, n) => [...(n ? [" or "] : []), ...insideOf(type, schema)]);
}

const joined = (schemas, word) => schemas.flatMap((each, n) => (n ? [word, ...typeOf(each)] : typeOf(each)));

const bracketed = (schema) => (schema.anyOf ? ["(", ...typeOf(schema), ")"] : typeOf(schema));

function insideOf(type, { items, prefixItems, additionalProperties }) {
  if (type === "array" && prefixItems) return ["array of ", ...joined(prefixItems, " and ")];
  if (type === "array" && items) return ["array of ", ...bracketed(items)];
  if (type === "object" && additionalProperties) return ["object of ", ...bracketed(additionalProperties)];
  return [type];
}

/** What a value must be beside its type, as words. */
export function limitsOf(schema) {
  const { minLength = 0, maxLength, minimum, maximum, maxItems, maxProperties, pattern } = schema;
  const all = schema.anyOf ? schema.anyOf.map(limitsOf) : [];
  const least = minLength ? `${minLength} to` : "at most";
  if (maxLength !== undefined) all.push(`${least} ${number(maxLength)} characters`);
  if (minimum !== undefined && maximum !== undefined) all.push(`${number(minimum)} to ${number(maximum)}`);
  else if (minimum !== undefined) all.push(`from ${number(minimum)}`);
  if (maxItems !== undefined) all.push(`at most ${number(maxItems)}`);
  if (maxProperties !== undefined) all.push(`at most ${maxProperties} names`);
  if (pattern) all.push(`like ${pattern}`);
  if (hasDefault(schema)) all.push(`by default ${JSON.stringify(schema.default)}`);
  return all.filter(Boolean).join(", ");
}

const hasDefault = (schema) => schema.default !== undefined && schema.default !== null;

/** A text's pieces: plain ones, `{ code }`, and `{ ref }` where the code is a schema's name. */
export function piecesOf(text, names) {
  return text
    .split("`")
    .map((piece, n) => (n % 2 ? (names.has(piece) ? { ref: piece } : { code: piece }) : piece))
    .filter((piece) => piece !== "");
}

/** The command that makes the call, for a shell. */
export function curlOf(call, origin) {
  const path = call.path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(call.examples[name]));
  const how = call.method === "GET" || call.body ? "" : ` -X ${call.method}`;
  const words = [`curl -s${isStream(call) ? "N" : ""}${how} ${quoted(origin + path)}`];
  const key = call.who.map((name) => KEY[name]).find(Boolean);
  if (key) words.push(`-H "authorization: Bearer ${key}"`);
  if (call.body) {
    const { media, text } = call.body.example;
    words.push(`-H ${quoted(`content-type: ${media}`)}`, `--data-binary ${quoted(text)}`);
  }
  return words.join(" \\\n  ");
}

const isStream = (call) => call.answers.some(({ content }) => content.some(({ media }) => media === "text/event-stream"));
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const nameIn = (schema) => (schema.$ref ?? schema.contentSchema?.$ref)?.split("/").at(-1);
const at = (document, ref) => ref.split("/").slice(1).reduce((found, name) => found[name], document);

/** What a filter looks through, of a call and of a schema. */
export const wordsOf = ({ method = "", path = "", name = "", summary = "", description, parameters = [], body, fields = [] }) =>
  [method, path, name, summary, description, ...[...parameters, ...(body?.fields ?? []), ...fields].map((field) => field.name)]
    .join(" ")
    .toLowerCase();

/** All words of the filter are there. */
export const matches = (words, filter) => filter.toLowerCase().split(/\s+/).every((word) => words.includes(word));
