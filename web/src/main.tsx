// Entry point of the page.
import "@mantine/core/styles.css";
import "@mantine/notifications/styles.css";
import "./app.css";
import { MantineProvider } from "@mantine/core";
import { Notifications } from "@mantine/notifications";
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { ApiError, onSessionExpired, onSignInAgain } from "./api/client";
import { me, projects } from "./api/queries";
import { createAppRouter } from "./router";
import { theme } from "./theme";

const queries = new QueryClient({
  defaultOptions: {
    queries: {
      // An error response below 500 is final; an unreachable server is retried.
      retry: (failures, error) => !(error instanceof ApiError && error.status < 500) && failures < 3,
      retryDelay: (attempt) => Math.min(300 * 2 ** attempt, 3_000),
      refetchOnWindowFocus: false,
      networkMode: "always",
      staleTime: 1_000,
    },
    mutations: { networkMode: "always" },
  },
});
const router = createAppRouter(queries);

onSessionExpired(() => {
  if (location.pathname === "/sign-in") return;
  queries.clear();
  void router.navigate({ to: "/sign-in", search: { next: location.pathname } });
});

onSignInAgain(() => void router.navigate({ to: "/sign-in", search: { next: location.pathname, again: true } }));

// The code and the data of the first screen are requested in parallel, not one after the other.
if (location.pathname === "/") {
  void import("./screens/Projects");
  void queries.prefetchQuery(me).then(() => queries.getQueryData(me.queryKey) && queries.prefetchQuery(projects));
}

const root = document.getElementById("root");
if (!root) throw new Error("The page has no root.");
createRoot(root).render(
  <StrictMode>
    <MantineProvider theme={theme} defaultColorScheme="auto">
      <QueryClientProvider client={queries}>
        <Notifications position="bottom-right" limit={4} />
        <RouterProvider router={router} />
      </QueryClientProvider>
    </MantineProvider>
  </StrictMode>,
);
