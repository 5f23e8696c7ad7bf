{{/* Names and labels that every object of a release shares. */}}

{{- define "fsa.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "fsa.selector" -}}
app.kubernetes.io/name: fullstackagent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "fsa.labels" -}}
{{ include "fsa.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The host of an origin, without scheme and port. */}}
{{- define "fsa.host" -}}
{{- (urlParse .Values.origin).host | splitList ":" | first -}}
{{- end -}}
