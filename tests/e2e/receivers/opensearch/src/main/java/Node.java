import org.codelibs.opensearch.runner.OpenSearchRunner;

/** One OpenSearch node on 127.0.0.1: {@code Node HTTP_PORT TRANSPORT_PORT DIRECTORY}. Prints "ready" when it is. */
public final class Node {
    public static void main(String[] arguments) throws Exception {
        OpenSearchRunner runner = new OpenSearchRunner();
        runner.onBuild((number, settings) -> {
            // Without these it looks for nodes on the usual ports, and joins whatever it finds.
            settings.put("discovery.type", "single-node");
            settings.remove("cluster.initial_cluster_manager_nodes");
            settings.put("http.port", arguments[0]);
            settings.put("transport.port", arguments[1]);
            settings.put("network.host", "127.0.0.1");
            // A machine's full disk is not what is tested here: without this, indices turn read-only at 95 %.
            settings.put("cluster.routing.allocation.disk.threshold_enabled", "false");
        }).build(OpenSearchRunner.newConfigs().basePath(arguments[2]).numOfNode(1).clusterName("kube-audit-e2e"));
        runner.ensureYellow();
        System.out.println("ready");
        Thread.sleep(Long.MAX_VALUE);
    }
}
