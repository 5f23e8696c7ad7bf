// Branch button beside the project's name: switches, creates, promotes and deletes branches.
import { Button, Combobox, Text, useCombobox } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { IconArrowMerge, IconCheck, IconChevronDown, IconGitBranch, IconPlus, IconTrash } from "@tabler/icons-react";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useParams } from "@tanstack/react-router";
import { useEffect, useState } from "react";
import type { ProjectInBranch } from "../api/client";
import { branches as branchesQuery, me, useDeleteBranch, useHasSnapshots, usePromoteBranch } from "../api/queries";
import { branchReference, mainBranch, parseReference } from "../logic/branch";
import { hasRole } from "../logic/role";
import { phaseStatus } from "../logic/status";
import { discardUnsavedOf } from "../logic/unsaved";
import { Confirm } from "./Confirm";
import { CreateBranch } from "./CreateBranch";

/** What of the switcher is open; `name` is that of the new branch. */
export type OpenSwitcher = { part: "menu" | "promote" | "delete" } | { part: "create"; name?: string } | undefined;

/** Values of the options that are no branches; a branch's name has no colon. */
const createOption = ":create";
const promoteOption = ":promote";
const deleteOption = ":delete";

interface Props {
  project: ProjectInBranch;
  opened: OpenSwitcher;
  open: (what: OpenSwitcher) => void;
}

export function BranchSwitcher({ project, opened, open }: Props) {
  const navigate = useNavigate();
  const { project: slug } = useParams({ strict: false });
  const user = useQuery(me).data?.id;
  const found = useQuery(branchesQuery(project.id));
  const canBranch = useHasSnapshots(project.region);
  const canEdit = hasRole(project.role, "editor");
  const promote = usePromoteBranch();
  const remove = useDeleteBranch();
  const [filter, setFilter] = useState("");
  const combobox = useCombobox({
    opened: opened?.part === "menu",
    onOpenedChange: (menu) => open(menu ? { part: "menu" } : undefined),
  });
  const { focusSearchInput, resetSelectedOption, selectFirstOption, selectActiveOption } = combobox;
  const menu = opened?.part === "menu";
  useEffect(() => {
    if (!menu) return;
    setFilter("");
    focusSearchInput();
    return resetSelectedOption;
  }, [menu, focusSearchInput, resetSelectedOption]);
  const all = found.data ?? [];
  const shown = all.filter(({ name }) => name.includes(filter.trim().toLowerCase()));
  // Enter chooses the option that is marked: the first of the filtered ones.
  useEffect(() => {
    if (!menu) return;
    if (filter) selectFirstOption();
    else selectActiveOption();
  }, [menu, filter, all.length, selectFirstOption, selectActiveOption]);

  const goTo = (branch: string) => {
    const to = branchReference(parseReference(slug ?? project.name).project, branch);
    return navigate({ to: "/p/$project", params: { project: to }, search: (search) => search });
  };
  const choose = (value: string) => {
    if (value === createOption) return open({ part: "create", name: filter.trim() });
    if (value === promoteOption) return open({ part: "promote" });
    if (value === deleteOption) return open({ part: "delete" });
    open(undefined);
    combobox.focusTarget();
    if (value !== project.branch) void goTo(value);
  };
  const promoteBranch = () =>
    promote.mutate(
      { project: project.id, branch: project.branch },
      {
        onSuccess: () => {
          notifications.show({ message: `Promoting ${project.branch} to main…` });
          void goTo(mainBranch);
        },
      },
    );
  const removeBranch = () =>
    remove.mutate(
      { project: project.id, branch: project.branch },
      {
        onSuccess: () => {
          if (user !== undefined) discardUnsavedOf(localStorage, user, project.reference);
          notifications.show({ message: `Deleting the branch ${project.branch}…` });
          void goTo(mainBranch);
        },
      },
    );

  return (
    <>
      <Combobox store={combobox} width={280} position="bottom-start" shadow="md" onOptionSubmit={choose}>
        <Combobox.Target targetType="button">
          <Button
            variant="default"
            className="branch"
            px={8}
            leftSection={<IconGitBranch size={14} aria-hidden />}
            rightSection={<IconChevronDown size={12} aria-hidden />}
            aria-label={`Branch ${project.branch}: switch branches`}
            title={project.branch}
            onClick={() => combobox.toggleDropdown()}
          >
            <span className="clip">{project.branch}</span>
          </Button>
        </Combobox.Target>
        <Combobox.Dropdown>
          <Combobox.Search value={filter} onChange={(event) => setFilter(event.currentTarget.value)} placeholder="Find a branch…" aria-label="Find a branch" />
          <Combobox.Options aria-label="Branches">
            <div className="branches">
              {shown.map(({ name, sandbox }) => {
                const { label, color, inProgress } = phaseStatus(sandbox?.status);
                const current = name === project.branch;
                return (
                  <Combobox.Option key={name} value={name} active={current} className="branch-option" aria-current={current}>
                    <IconCheck size={14} aria-hidden visibility={current ? "visible" : "hidden"} />
                    <span className="clip grow" title={name}>
                      {name}
                    </span>
                    <span className="dot" data-in-progress={inProgress} style={{ "--dot": `var(--mantine-color-${color}-5)` } as React.CSSProperties} aria-hidden />
                    <Text span size="xs" c="dimmed">
                      {label}
                    </Text>
                  </Combobox.Option>
                );
              })}
              {found.data && shown.length === 0 && <Combobox.Empty>No branches match.</Combobox.Empty>}
            </div>
            {canEdit && (canBranch || project.branch !== mainBranch) && (
              <div className="branch-actions">
                {canBranch && (
                  <Combobox.Option value={createOption} className="branch-option">
                    <IconPlus size={14} aria-hidden />
                    <span className="clip">{filter.trim() && shown.length === 0 ? `New branch ${filter.trim()}…` : "New branch…"}</span>
                  </Combobox.Option>
                )}
                {canBranch && project.branch !== mainBranch && (
                  <Combobox.Option value={promoteOption} className="branch-option">
                    <IconArrowMerge size={14} aria-hidden />
                    <span className="clip">Promote {project.branch} to main…</span>
                  </Combobox.Option>
                )}
                {project.branch !== mainBranch && (
                  <Combobox.Option value={deleteOption} className="branch-option">
                    <IconTrash size={14} aria-hidden />
                    <span className="clip">Delete branch {project.branch}…</span>
                  </Combobox.Option>
                )}
              </div>
            )}
          </Combobox.Options>
          {canBranch === false && <Combobox.Footer>Projects in the region {project.region} have the branch main only.</Combobox.Footer>}
        </Combobox.Dropdown>
      </Combobox>
      {opened?.part === "create" && <CreateBranch project={project} initialName={opened.name ?? ""} close={() => open(undefined)} created={(name) => void goTo(name)} />}
      <Confirm
        confirmation={
          opened?.part === "promote"
            ? {
                title: `Promote ${project.branch} to main?`,
                text: `main gets the files and the database of ${project.branch} and restarts. Its current state is kept as a snapshot. main keeps its environment variables, and the branch stays.`,
                action: "Promote",
                run: promoteBranch,
              }
            : undefined
        }
        close={() => open(undefined)}
      />
      <Confirm
        confirmation={
          opened?.part === "delete"
            ? {
                title: `Delete branch ${project.branch}?`,
                text: "Its sandbox, files, database and snapshots are permanently deleted. Other branches are not changed.",
                action: "Delete branch",
                run: removeBranch,
              }
            : undefined
        }
        close={() => open(undefined)}
      />
    </>
  );
}
