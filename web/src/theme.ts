// Theme: neutral surfaces, one accent color, small type, even spacing.
import { type MantineColorsTuple, createTheme } from "@mantine/core";

const darkColors: MantineColorsTuple = [
  "#d6dae0", "#aab2bd", "#8b95a3", "#5c6672", "#3a424d", "#2a313a", "#1e242b", "#171c22", "#12161b", "#0d1014",
];

export const theme = createTheme({
  primaryColor: "teal",
  primaryShade: 9,
  autoContrast: true,
  fontFamily: "Inter, system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif",
  fontFamilyMonospace: "ui-monospace, 'JetBrains Mono', 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace",
  headings: { fontWeight: "600", sizes: { h1: { fontSize: "1.25rem" }, h2: { fontSize: "1rem" }, h3: { fontSize: "0.875rem" } } },
  colors: { dark: darkColors },
  defaultRadius: "sm",
  fontSizes: { xs: "0.75rem", sm: "0.8125rem", md: "0.875rem", lg: "1rem", xl: "1.25rem" },
  components: {
    Badge: { defaultProps: { tt: "capitalize" } },
    Button: { defaultProps: { size: "xs" } },
    TextInput: { defaultProps: { size: "sm" } },
    PasswordInput: { defaultProps: { size: "sm" } },
    Select: { defaultProps: { size: "sm" } },
    Textarea: { defaultProps: { size: "sm" } },
    ActionIcon: { defaultProps: { variant: "subtle", color: "gray" } },
    Modal: { defaultProps: { centered: true, closeButtonProps: { "aria-label": "Close" }, overlayProps: { opacity: 0.5 } } },
    Tooltip: { defaultProps: { openDelay: 400, withArrow: true, fz: "xs" } },
    Table: { defaultProps: { verticalSpacing: 6, horizontalSpacing: "sm", fz: "sm" } },
  },
});
