{{- /*
The sidecar for the pod of any Deployment: the container, for a list of initContainers; its volumes; the labels by which the
Service and its like find the pod; the annotations. From a chart that depends on this one, with its own values under `parallax`:

  metadata:
    labels:
      {{- include "parallax.podLabels" .Subcharts.parallax | nindent 8 }}
    annotations:
      {{- include "parallax.podAnnotations" .Subcharts.parallax | nindent 8 }}
  spec:
    initContainers:
      {{- include "parallax.sidecar" .Subcharts.parallax | nindent 8 }}
    volumes:
      {{- include "parallax.volumes" .Subcharts.parallax | nindent 8 }}

It has no preStop hook: a native sidecar is asked to end after the application has, and SIGTERM is all it needs then. Let the
application wait in a preStop of its own, until the cluster has taken the pod out of its Services.
*/ -}}
{{- define "parallax.podAnnotations" -}}
{{- /* What is read at the start only starts new pods when it changes. */ -}}
checksum/parallax-catalog: {{ sha256sum .Values.catalog }}
{{- end }}

{{- /* By which names the admin door may be called through its Service. */ -}}
{{- define "parallax.adminHosts" -}}
{{- $service := include "parallax.adminService" . -}}
{{- printf "%s,%s.%s,%s.%s.svc,%s.%s.svc.cluster.local" $service $service .Release.Namespace $service .Release.Namespace $service .Release.Namespace -}}
{{- end }}

{{- define "parallax.adminService" -}}
{{- printf "%s-admin" (include "parallax.name" . | trunc 57 | trimSuffix "-") -}}
{{- end }}

{{- define "parallax.sidecar" -}}
- name: parallax
  image: {{ include "parallax.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: ["serve"]
  # What makes it a sidecar: it starts before the application, runs beside it, and stops after it.
  restartPolicy: Always
  env:
    {{- include "parallax.redisEnv" . | nindent 4 }}
    - name: ENABLE_POSTGRES
      value: {{ .Values.postgres.enabled | quote }}
    {{- if .Values.postgres.enabled }}
    {{- include "parallax.postgresEnv" (dict "root" . "role" .Values.postgres "file" "postgres-serve-password") | nindent 4 }}
    - name: POSTGRES_POOL_SIZE
      value: {{ .Values.postgres.poolSize | quote }}
    - name: POSTGRES_IDLE_TIMEOUT
      value: {{ int64 .Values.postgres.idleTimeoutMs | quote }}
    {{- end }}
    - name: PARALLAX_HTTP_LISTEN
      value: {{ printf "127.0.0.1:%v" .Values.doors.http.port | quote }}
    - name: PARALLAX_RESP_LISTEN
      value: {{ printf "127.0.0.1:%v" .Values.doors.resp.port | quote }}
    - name: PARALLAX_ADMIN_LISTEN
      value: {{ printf "0.0.0.0:%v" .Values.doors.admin.port | quote }}
    - name: PARALLAX_ADMIN_HOSTS
      value: {{ include "parallax.adminHosts" . | quote }}
    - name: PARALLAX_ADMIN_OPERATOR_TOKEN_FILE
      value: /etc/parallax/secrets/operator-token
    {{- if .Values.doors.admin.tokensSecret.viewerKey }}
    - name: PARALLAX_ADMIN_VIEWER_TOKEN_FILE
      value: /etc/parallax/secrets/viewer-token
    {{- end }}
    {{- if .Values.doors.admin.tokensSecret.secretsKey }}
    - name: PARALLAX_ADMIN_SECRETS_TOKEN_FILE
      value: /etc/parallax/secrets/secrets-token
    {{- end }}
    - name: PARALLAX_INSTANCE
      valueFrom:
        fieldRef:
          fieldPath: metadata.name
    {{- include "parallax.commonEnv" . | nindent 4 }}
  ports:
    - name: admin
      containerPort: {{ .Values.doors.admin.port }}
  startupProbe:
    httpGet: &ready
      path: /readyz
      port: admin
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    httpGet: *ready
    periodSeconds: 5
  livenessProbe:
    httpGet:
      path: /livez
      port: admin
    periodSeconds: 10
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  securityContext:
    {{- include "parallax.securityContext" . | nindent 4 }}
  volumeMounts:
    {{- include "parallax.volumeMounts" . | nindent 4 }}
{{- end }}

{{- /* What the sidecar and the jobs are told alike. */ -}}
{{- define "parallax.commonEnv" -}}
- name: PARALLAX_TIMEZONE_OFFSET
  value: {{ .Values.timezoneOffset | quote }}
{{- if .Values.catalog }}
- name: PARALLAX_CATALOG
  value: /etc/parallax/catalog/catalog.toml
{{- end }}
- name: PARALLAX_LOG
  value: {{ .Values.log.filter | quote }}
- name: PARALLAX_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
{{- range $name, $value := .Values.extraEnv }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "parallax.volumeMounts" -}}
- name: parallax-secrets
  mountPath: /etc/parallax/secrets
  readOnly: true
{{- if .Values.catalog }}
- name: parallax-catalog
  mountPath: /etc/parallax/catalog
  readOnly: true
{{- end }}
{{- end }}

{{- define "parallax.secretFile" -}}
- secret:
    name: {{ .name | quote }}
    items:
      - key: {{ .key | quote }}
        path: {{ .file }}
{{- end }}

{{- define "parallax.volumes" -}}
- name: parallax-secrets
  projected:
    defaultMode: 0444
    sources:
      {{- $tokens := .Values.doors.admin.tokensSecret }}
      {{- include "parallax.secretFile" (dict "name" $tokens.name "key" $tokens.operatorKey "file" "operator-token") | nindent 6 }}
      {{- with $tokens.viewerKey }}
      {{- include "parallax.secretFile" (dict "name" $tokens.name "key" . "file" "viewer-token") | nindent 6 }}
      {{- end }}
      {{- with $tokens.secretsKey }}
      {{- include "parallax.secretFile" (dict "name" $tokens.name "key" . "file" "secrets-token") | nindent 6 }}
      {{- end }}
      {{- with include "parallax.storeSecrets" . | trim }}
      {{- . | nindent 6 }}
      {{- end }}
{{- include "parallax.catalogVolume" . }}
{{- end }}

{{- /* What a job mounts: no token of a door. */ -}}
{{- define "parallax.jobVolumes" -}}
- name: parallax-secrets
  projected:
    defaultMode: 0444
    sources:
      {{- with include "parallax.storeSecrets" . | trim }}
      {{- . | nindent 6 }}
      {{- else }} []
      {{- end }}
{{- include "parallax.catalogVolume" . }}
{{- end }}

{{- define "parallax.catalogVolume" -}}
{{- if .Values.catalog }}
- name: parallax-catalog
  configMap:
    name: {{ include "parallax.name" . }}-catalog
{{- end }}
{{- end }}

{{- /* Passwords and authorities of both stores, as files. */ -}}
{{- define "parallax.storeSecrets" -}}
{{- with .Values.redis.passwordSecret }}
{{- if .name }}
{{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "redis-password") | nindent 0 }}
{{- end }}
{{- end }}
{{- with .Values.redis.tls.caSecret }}
{{- if .name }}
{{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "redis-ca") | nindent 0 }}
{{- end }}
{{- end }}
{{- if and .Values.postgres.enabled .Values.postgres.passwordSecret.name }}
{{- with .Values.postgres.passwordSecret }}
{{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "postgres-serve-password") | nindent 0 }}
{{- end }}
{{- end }}
{{- if and .Values.postgres.enabled .Values.postgres.caSecret.name }}
{{- with .Values.postgres.caSecret }}
{{- include "parallax.secretFile" (dict "name" .name "key" .key "file" "postgres-ca") | nindent 0 }}
{{- end }}
{{- end }}
{{- end }}
