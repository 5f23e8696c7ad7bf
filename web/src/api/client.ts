// How the page talks to the server: typed by the API's own document, and every failure is the
// server's sentence.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Project = Schemas["Project"];
export type Sandbox = Schemas["Sandbox"];
export type Phase = Sandbox["status"];
export type Port = Schemas["Port"];
export type User = Schemas["User"];
export type FileEntry = Schemas["FileEntry"];
export type ErrorBody = Schemas["ErrorBody"];

/** How long an answer may take; a wish is answered at once, so this is a network's patience. */
const patience = 60_000;

/** A refusal, in the server's words. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly body: ErrorBody | undefined,
  ) {
    super(body?.details.message ?? body?.error ?? `The server answered ${status} without a reason.`);
  }

  /** The field that was refused, with its rule. */
  get field() {
    return this.body?.details.field ?? undefined;
  }
}

/** The server could not be reached at all. */
export class Unreachable extends Error {
  constructor() {
    super("The server does not answer. Check that it runs and that you are online; this page goes on by itself.");
  }
}

let onSignedOut: () => void = () => {};

/** Who is told when a request finds that nobody is signed in any more. */
export function whenSignedOut(act: () => void) {
  onSignedOut = act;
}

/** `fetch` with a bound, whose failures are ours. */
export async function send(input: string | Request, init: RequestInit = {}, bound = patience): Promise<Response> {
  const limit = AbortSignal.timeout(bound);
  const signal = init.signal ? AbortSignal.any([init.signal, limit]) : limit;
  try {
    return await fetch(input, { ...init, signal });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Unreachable();
  }
}

/** An error for an answer that is not a success. */
export async function refusal(response: Response): Promise<ApiError> {
  const text = await response.text();
  let body: ErrorBody | undefined;
  try {
    body = JSON.parse(text) as ErrorBody;
    if (!body.details) body = undefined;
  } catch {
    body = undefined;
  }
  return refused(response.status, body);
}

function refused(status: number, body: ErrorBody | undefined): ApiError {
  if (status === 401) onSignedOut();
  return new ApiError(status, body);
}

export const api = createClient<paths>({ fetch: (request) => send(request) });

/** The data of a typed answer, or the server's refusal thrown. */
export async function data<T>(
  answer: Promise<{ data?: T; error?: unknown; response: Response }>,
): Promise<NonNullable<T>> {
  const { data, error, response } = await answer;
  if (!response.ok) throw refused(response.status, error && typeof error === "object" ? (error as ErrorBody) : undefined);
  return data as NonNullable<T>;
}

/** A sentence for whatever was thrown. */
export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
