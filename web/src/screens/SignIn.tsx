// Signing in: with a password, with a one-time link (whose token is in the fragment, which browsers
// send to nobody), and accepting an invitation.
import { Alert, Button, PasswordInput, Stack, Text, TextInput, Title } from "@mantine/core";
import { IconBrandGithub } from "@tabler/icons-react";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { type FormEvent, useEffect, useState } from "react";
import { ApiError, api, data, sentence } from "../api/client";
import { methods } from "../api/queries";

/** The link's token, taken out of the address before anything can navigate or copy it. */
function takeToken(): string {
  if (location.pathname !== "/sign-in") return "";
  const token = location.hash.slice(1);
  if (token) history.replaceState(history.state, "", location.pathname + location.search);
  return token;
}

const token = takeToken();

export function SignIn() {
  const queries = useQueryClient();
  const navigate = useNavigate();
  const { next } = useSearch({ from: "/sign-in" });
  const [link, setLink] = useState(token);
  const [invited, setInvited] = useState(false);
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState("");
  const github = useQuery(methods).data?.github ?? false;

  const withGithub = async () => {
    setBusy(true);
    setSaid("");
    try {
      location.assign((await data(api.POST("/api/auth/github", { body: {} }))).url);
    } catch (error) {
      setBusy(false);
      setSaid(sentence(error));
    }
  };

  // A link that is opened where this page is already changes nothing but the fragment.
  useEffect(() => {
    const changed = () => {
      const token = takeToken();
      if (!token) return;
      setLink(token);
      setInvited(false);
      setSaid("");
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);

  const submit = async (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault();
    const fields = new FormData(event.currentTarget);
    const login = String(fields.get("login") ?? "");
    const password = String(fields.get("password") ?? "");
    setBusy(true);
    setSaid("");
    try {
      const user = link
        ? await data(
            api.POST("/api/auth/link", {
              body: { token: link, ...(login && { login }), ...(password && { password }) },
            }),
          )
        : await data(api.POST("/api/auth/password", { body: { login, password } }));
      queries.clear();
      queries.setQueryData(["me"], user);
      // A way back into a preview is the server's own page; anything else is ours.
      if (next?.startsWith("/api/auth/preview?")) location.assign(next);
      else await navigate({ to: next?.startsWith("/") && !next.startsWith("//") ? next : "/" });
    } catch (error) {
      setBusy(false);
      if (link && error instanceof ApiError && error.field && !invited) {
        // The link is an invitation, which is not used up by being refused.
        setInvited(true);
        return;
      }
      setSaid(sentence(error));
    }
  };

  return (
    <Stack component="main" className="centered" gap="md">
      <div className="brand">
        <img src="/icon.svg" alt="" />
        FullStack Agent
      </div>
      <form onSubmit={(event) => void submit(event)} className="panel" style={{ padding: 20 }} aria-label="Sign in">
        <Stack gap="sm">
          <Title order={1}>{invited ? "Welcome" : "Sign in"}</Title>
          {said && (
            <Alert color="red" role="alert" py="xs">
              {said}
            </Alert>
          )}
          {link && !invited && <Text size="sm">This link signs you in once.</Text>}
          {invited && <Text size="sm">Choose a login to have here. A password may be set later too.</Text>}
          {(!link || invited) && (
            <>
              <TextInput
                name="login"
                label="Login"
                autoComplete="username"
                maxLength={40}
                required
                withAsterisk={false}
                autoFocus
              />
              <PasswordInput
                name="password"
                label="Password"
                autoComplete={invited ? "new-password" : "current-password"}
                required={!invited}
                withAsterisk={false}
              />
            </>
          )}
          <Button type="submit" loading={busy} size="sm">
            {invited ? "Begin" : "Sign in"}
          </Button>
          {github && !link && (
            <Button variant="default" size="sm" disabled={busy} leftSection={<IconBrandGithub size={16} />} onClick={() => void withGithub()}>
              Sign in with GitHub
            </Button>
          )}
          {link && (
            <Button
              variant="subtle"
              color="gray"
              onClick={() => {
                setLink("");
                setInvited(false);
                setSaid("");
              }}
            >
              Use a password instead
            </Button>
          )}
        </Stack>
      </form>
      {!link && (
        <Text size="xs" c="dimmed">
          The first time, open the link that the server printed when it started. Lost it? “fsa serve” prints another one
          at its next start, and an owner can make one for you.
        </Text>
      )}
    </Stack>
  );
}
