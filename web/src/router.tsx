// Routes of the page. Each screen is a file that is loaded when it is first opened.
import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  redirect,
} from "@tanstack/react-router";
import { ApiError } from "./api/client";
import { me } from "./api/queries";
import { Failed, NotFound, Root } from "./shell/Root";
import { Shell } from "./shell/Shell";

export const views = ["preview", "files", "git", "tasks", "logs", "activity", "environment", "database", "snapshots", "settings", "terminal"] as const;
export type View = (typeof views)[number];

const root = createRootRouteWithContext<{ queries: QueryClient }>()({
  component: Root,
  notFoundComponent: NotFound,
  errorComponent: Failed,
});

const signIn = createRoute({
  getParentRoute: () => root,
  path: "/sign-in",
  validateSearch: (search: Record<string, unknown>): { next?: string; again?: boolean } => ({
    ...(typeof search["next"] === "string" && { next: search["next"] }),
    ...(search["again"] === true && { again: true }),
  }),
  component: lazyRouteComponent(() => import("./screens/SignIn"), "SignIn"),
});

const authenticated = createRoute({
  getParentRoute: () => root,
  id: "authenticated",
  beforeLoad: async ({ context, location }) => {
    try {
      await context.queries.ensureQueryData(me);
    } catch (error) {
      if (!(error instanceof ApiError && error.status === 401)) throw error;
      throw redirect({ to: "/sign-in", search: location.pathname === "/" ? {} : { next: location.pathname } });
    }
  },
  component: Shell,
});

const projects = createRoute({
  getParentRoute: () => authenticated,
  path: "/",
  component: lazyRouteComponent(() => import("./screens/Projects"), "Projects"),
});

const workspace = createRoute({
  getParentRoute: () => authenticated,
  path: "/p/$project",
  component: lazyRouteComponent(() => import("./screens/workspace/Workspace"), "Workspace"),
  validateSearch: (search: Record<string, unknown>): { view?: View } =>
    views.includes(search["view"] as View) ? { view: search["view"] as View } : {},
});

const account = createRoute({
  getParentRoute: () => authenticated,
  path: "/account",
  component: lazyRouteComponent(() => import("./screens/Account"), "Account"),
});

const administration = createRoute({
  getParentRoute: () => authenticated,
  path: "/administration",
  component: lazyRouteComponent(() => import("./screens/Administration"), "Administration"),
});

const tree = root.addChildren([signIn, authenticated.addChildren([projects, workspace, account, administration])]);

export function createAppRouter(queries: QueryClient) {
  return createRouter({
    routeTree: tree,
    context: { queries },
    defaultPreload: "intent",
    // Of a branch: /p/PROJECT@BRANCH.
    pathParamsAllowedCharacters: ["@"],
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof createAppRouter>;
  }
}
