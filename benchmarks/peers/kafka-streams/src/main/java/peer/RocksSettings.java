package peer;

import java.util.Map;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.Cache;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;
import org.rocksdb.RocksDB;

/** More memory than the defaults give: one block cache for all stores, and memtables that hold a segment's share. */
public final class RocksSettings implements RocksDBConfigSetter {
    static {
        RocksDB.loadLibrary();
    }

    private static final Cache CACHE = new LRUCache(512L << 20);

    @Override
    public void setConfig(String storeName, Options options, Map<String, Object> configs) {
        BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
        table.setBlockCache(CACHE);
        options.setTableFormatConfig(table);
        options.setWriteBufferSize(64L << 20);
        options.setMaxWriteBufferNumber(3);
        options.setIncreaseParallelism(2);
    }

    @Override
    public void close(String storeName, Options options) {
        // The cache is shared and lives as long as the process.
    }
}
