// HTTP client of the API: typed by its OpenAPI document; every error carries the server's message.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];
export type Project = Schemas["Project"];
/** A project with the sandbox of one of its branches. */
export type ProjectInBranch = Project & {
  branch: string;
  /** Names the branch in requests: the project's id, and the branch if it is not main. */
  reference: string;
};
export type Sandbox = Schemas["Sandbox"];
export type Phase = Sandbox["status"];
export type Port = Schemas["Port"];
export type User = Schemas["User"];
export type FileEntry = Schemas["FileEntry"];
export type ErrorBody = Schemas["ErrorBody"];

/** Timeout of a request. Lifecycle actions respond at once, so this only allows for a slow network. */
const requestTimeout = 60_000;

/** An error response, with the server's message. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly body: ErrorBody | undefined,
  ) {
    super(body?.details.message ?? body?.error ?? `The server responded with status ${status}.`);
  }

  /** The field that failed validation, with its rule. */
  get field() {
    return this.body?.details.field ?? undefined;
  }
}

/** No response from the server. */
export class NetworkError extends Error {
  constructor() {
    super("The server cannot be reached. Check that it is running and that you are online. This page reconnects automatically.");
  }
}

let handleSessionExpired: () => void = () => {};

let handleSignInAgain: () => void = () => {};

/** Sets the callback for a request that needs a more recent sign-in than that of the session. */
export function onSignInAgain(callback: () => void) {
  handleSignInAgain = callback;
}

/** Sets the callback for a request that fails because the session has ended (401). */
export function onSessionExpired(callback: () => void) {
  handleSessionExpired = callback;
}

/** `fetch` with a timeout; a network failure becomes a [`NetworkError`]. */
export async function send(input: string | Request, init: RequestInit = {}, timeout = requestTimeout): Promise<Response> {
  const expired = AbortSignal.timeout(timeout);
  const signal = init.signal ? AbortSignal.any([init.signal, expired]) : expired;
  try {
    return await fetch(input, { ...init, signal });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new NetworkError();
  }
}

/** Reads the error from an unsuccessful response. */
export async function readApiError(response: Response): Promise<ApiError> {
  const text = await response.text();
  let body: ErrorBody | undefined;
  try {
    body = JSON.parse(text) as ErrorBody;
    if (!body.details) body = undefined;
  } catch {
    body = undefined;
  }
  return apiError(response.status, body);
}

function apiError(status: number, body: ErrorBody | undefined): ApiError {
  if (status === 401) handleSessionExpired();
  if (body?.details.name === "SignInAgain") handleSignInAgain();
  return new ApiError(status, body);
}

export const api = createClient<paths>({ fetch: (request) => send(request) });

/** The data of a typed response; throws the [`ApiError`] of an unsuccessful one. */
export async function data<T>(
  request: Promise<{ data?: T; error?: unknown; response: Response }>,
): Promise<NonNullable<T>> {
  const { data, error, response } = await request;
  if (!response.ok) throw apiError(response.status, error && typeof error === "object" ? (error as ErrorBody) : undefined);
  return data as NonNullable<T>;
}

/** The message to show for a thrown value. */
export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
