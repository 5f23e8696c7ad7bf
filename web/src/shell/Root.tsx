// What is around every screen, and what stands in for one that cannot be shown.
import { Button, Stack, Text, Title } from "@mantine/core";
import { Link, Outlet, useRouter } from "@tanstack/react-router";
import { sentence } from "../api/client";

export function Root() {
  return <Outlet />;
}

export function NotFound() {
  return (
    <Stack className="centered" component="main">
      <Title order={1}>There is nothing here</Title>
      <Text c="dimmed">The address is wrong, or what was here is gone.</Text>
      <div>
        <Button component={Link} to="/" variant="default">
          Your projects
        </Button>
      </div>
    </Stack>
  );
}

export function Failed({ error }: { error: unknown }) {
  const router = useRouter();
  return (
    <Stack className="centered" component="main">
      <Title order={1}>This page could not be shown</Title>
      <Text>{sentence(error)}</Text>
      <div>
        <Button variant="default" onClick={() => void router.invalidate()}>
          Try again
        </Button>
      </div>
    </Stack>
  );
}
