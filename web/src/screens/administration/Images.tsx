// Images that the default region stores, for owners: list and removal.
import { Alert, Table, Text } from "@mantine/core";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { api, data, errorMessage } from "../../api/client";
import { images, notifyError } from "../../api/queries";
import { formatBytes, formatDateTime, timeAgo } from "../../logic/time";
import { RemovableTable } from "../../shell/RemovableTable";

export function Images() {
  const queries = useQueryClient();
  const found = useQuery(images);
  const remove = useMutation({
    mutationFn: (name: string) => data(api.DELETE("/api/images/{name}", { params: { path: { name } } })),
    onSettled: () => queries.invalidateQueries({ queryKey: images.queryKey }),
    onError: notifyError,
  });
  if (found.isError) return <Alert color="red">{errorMessage(found.error)}</Alert>;
  const all = found.data?.items ?? [];
  return (
    <>
      <Text size="sm" c="dimmed" mb="sm">
        {found.data && all.length === 0 ? "No images are stored." : "Images that projects are created from. Import one with fsa image import."}
      </Text>
      {all.length > 0 && (
        <RemovableTable
          rows={all}
          id={(image) => image.name}
          className="scroll"
          cells={(image) => (
            <>
              <Table.Td style={{ overflowWrap: "anywhere" }} title={image.digest}>
                {image.name}
              </Table.Td>
              <Table.Td c="dimmed" style={{ whiteSpace: "nowrap" }}>
                {formatBytes(image.size)}
              </Table.Td>
              <Table.Td c="dimmed" visibleFrom="sm" style={{ whiteSpace: "nowrap" }}>
                {image.layers === 1 ? "1 layer" : `${image.layers} layers`}
              </Table.Td>
              <Table.Td c="dimmed" title={formatDateTime(image.importedAt)} style={{ whiteSpace: "nowrap" }}>
                {timeAgo(image.importedAt)}
              </Table.Td>
            </>
          )}
          removeAction={(image) => ({
            label: `Remove ${image.name}`,
            confirmation: {
              title: `Remove ${image.name}?`,
              text: "Its name is removed now, and its files once no sandbox needs them. An imported image must then be imported again.",
              action: "Remove",
              run: () => remove.mutate(image.name),
            },
          })}
        />
      )}
    </>
  );
}
