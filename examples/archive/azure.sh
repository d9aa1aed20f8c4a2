#!/bin/sh
# A container that keeps what is put for seven years, and an identity for the function's pod that can add and read, no more.
#
#   GROUP=audit ACCOUNT=kubeauditarchive CONTAINER=audit LOCATION=westeurope CLUSTER_GROUP=aks CLUSTER=prod YEARS=7 ./azure.sh
#
# Needs the Azure CLI, and workload identity on the cluster. Lock the policy when it is right: for good. Not run by the
# project's tests: read it first.
set -eu
: "${GROUP:?}" "${ACCOUNT:?}" "${CONTAINER:?}" "${LOCATION:?}" "${CLUSTER_GROUP:?}" "${CLUSTER:?}" "${YEARS:=7}"
az storage account create --resource-group "$GROUP" --name "$ACCOUNT" --location "$LOCATION" --sku Standard_ZRS \
  --allow-blob-public-access false --min-tls-version TLS1_2 --allow-shared-key-access false
az storage container create --account-name "$ACCOUNT" --name "$CONTAINER" --auth-mode login
az storage container immutability-policy create --resource-group "$GROUP" --account-name "$ACCOUNT" \
  --container-name "$CONTAINER" --period $((YEARS * 366))
scope=$(az storage account show --resource-group "$GROUP" --name "$ACCOUNT" --query id --output tsv)
scope="$scope/blobServices/default/containers/$CONTAINER"
role="Kube Audit Archive $ACCOUNT"
az role definition create --role-definition "{\"Name\": \"$role\", \"AssignableScopes\": [\"$scope\"], \"DataActions\": [
  \"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/add/action\",
  \"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write\",
  \"Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read\"]}"
az identity create --resource-group "$GROUP" --name kube-audit-archive --location "$LOCATION"
client=$(az identity show --resource-group "$GROUP" --name kube-audit-archive --query clientId --output tsv)
az role assignment create --assignee "$client" --role "$role" --scope "$scope"
issuer=$(az aks show --resource-group "$CLUSTER_GROUP" --name "$CLUSTER" --query oidcIssuerProfile.issuerUrl --output tsv)
az identity federated-credential create --resource-group "$GROUP" --identity-name kube-audit-archive --name "$CLUSTER" \
  --issuer "$issuer" --subject system:serviceaccount:kube-audit-function:kube-audit-function
echo "annotate the service account: azure.workload.identity/client-id=$client; label the pods: azure.workload.identity/use=true"
echo "and set AZURE_STORAGE_ACCOUNT_NAME=$ACCOUNT AUDIT_ARCHIVE_URL=az://$CONTAINER/v1"
