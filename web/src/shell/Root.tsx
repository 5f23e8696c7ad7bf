// Root of all screens, and the pages for an unknown URL and for an error.
import { Button, Stack, Text, Title } from "@mantine/core";
import { Link, Outlet, useRouter } from "@tanstack/react-router";
import { errorMessage } from "../api/client";

export function Root() {
  return <Outlet />;
}

export function NotFound() {
  return (
    <Stack className="centered" component="main">
      <Title order={1}>Page not found</Title>
      <Text c="dimmed">Check the URL. The page may have been moved or deleted.</Text>
      <div>
        <Button component={Link} to="/" variant="default">
          Go to projects
        </Button>
      </div>
    </Stack>
  );
}

export function Failed({ error }: { error: unknown }) {
  const router = useRouter();
  return (
    <Stack className="centered" component="main">
      <Title order={1}>Something went wrong</Title>
      <Text>{errorMessage(error)}</Text>
      <div>
        <Button variant="default" onClick={() => void router.invalidate()}>
          Retry
        </Button>
      </div>
    </Stack>
  );
}
