//! Top-k and the counting sort against the reference device, with sizes of several blocks.

use fathom_core::device::{Device, Primitives, SortByKey, TopK};
use fathom_core::dtype::DType;
use fathom_core::error::{DeviceError, ErrorKind};
use fathom_core::rng;
use fathom_core::tensor::Tensor;
use fathom_cuda::Cuda;

use crate::common;

#[test]
fn top_k() {
    common::suite(&[fathom_conformance::top_k]);
}

#[test]
fn sort_by_key() {
    common::suite(&[fathom_conformance::sort_by_key]);
}

fn expected(row: &[f32], k: usize) -> Vec<u32> {
    let mut columns: Vec<u32> = (0..row.len() as u32).collect();
    columns.sort_by(|&a, &b| row[b as usize].partial_cmp(&row[a as usize]).unwrap());
    columns.truncate(k);
    columns
}

/// Rows of both length classes, with many equal elements and with hardly anything but −∞.
#[test]
fn largest_of_long_rows() {
    for (rows, cols, k) in [(9, 256, 8), (3, 2048, 40), (2, 2049, 40), (3, 70_001, 1), (1, 2100, 2100 / 20)] {
        let mut x: Vec<f32> = (0..rows * cols).map(|i| (rng::normal(1, 1, i as u64) * 8.0).round()).collect();
        x[..cols].fill(f32::NEG_INFINITY);
        x[cols - 1] = 0.0;
        x[cols / 2] = -0.0;
        for emulation in common::ENGINES {
            let Some(device) = common::emulated(emulation) else { return };
            let x = Tensor::<Cuda>::from_slice(&device, &[rows, cols], DType::F32, &x).unwrap();
            let mut index = Tensor::<Cuda>::empty(&device, &[rows, k], DType::U32).unwrap();
            device.top_k(TopK::new(x.view(), index.view_mut()).unwrap()).unwrap();
            let index = index.download::<Cuda, u32>(&device).unwrap();
            let x = x.download::<Cuda, f32>(&device).unwrap();
            for (row, index) in x.chunks(cols).zip(index.chunks(k)) {
                assert_eq!(index, expected(row, k), "{rows} {cols} {k}");
            }
        }
    }
}

/// Order, inverse and offsets of keys.
fn sorted(device: &Cuda, keys: &[u32], buckets: usize) -> [Vec<u32>; 3] {
    let m = keys.len();
    let keys = Tensor::<Cuda>::from_slice(device, &[m, 1], DType::U32, keys).unwrap();
    let mut order = Tensor::<Cuda>::empty(device, &[m, 1], DType::U32).unwrap();
    let mut inverse = Tensor::<Cuda>::empty(device, &[m, 1], DType::U32).unwrap();
    let mut offsets = Tensor::<Cuda>::empty(device, &[1, buckets + 1], DType::U32).unwrap();
    let views = (order.view_mut(), inverse.view_mut(), offsets.view_mut());
    device.sort_by_key(SortByKey::new(keys.view(), buckets, views.0, views.1, views.2).unwrap()).unwrap();
    let read = |t: Tensor<Cuda>| {
        let mut words = vec![0u32; t.bytes() / 4];
        // The report of a bad key comes with the first read, the words all the same.
        let _ = device.download(t.view().buffer(), 0, bytemuck::cast_slice_mut(&mut words));
        words
    };
    [read(order), read(inverse), read(offsets)]
}

fn check(keys: &[u32], buckets: usize, [order, inverse, offsets]: &[Vec<u32>; 3]) {
    let key = |item: u32| (keys[item as usize] as usize).min(buckets - 1);
    let mut expected: Vec<u32> = (0..keys.len() as u32).collect();
    expected.sort_by_key(|&item| key(item));
    assert!(*order == expected);
    assert!(order.iter().enumerate().all(|(place, &item)| inverse[item as usize] as usize == place));
    for (g, &offset) in offsets.iter().enumerate() {
        assert_eq!(offset as usize, expected.partition_point(|&item| key(item) < g));
    }
}

#[test]
fn sorts_of_many_blocks() {
    for (items, buckets) in [(0, 5), (5000, 256), (70_000, 1024), (3000, 1025), (20_000, 130_000), (300_000, 7)] {
        let keys: Vec<u32> = (0..items).map(|i| (rng::bits(2, 0, i) % buckets as u64) as u32).collect();
        for emulation in if items > 100_000 { &common::ENGINES[..1] } else { &common::ENGINES } {
            let Some(device) = common::emulated(*emulation) else { return };
            check(&keys, buckets, &sorted(&device, &keys, buckets));
            device.flush().unwrap();
        }
    }
}

#[test]
fn bad_keys_are_of_the_last_bucket_and_reported() {
    let Some(device) = common::device() else { return };
    for buckets in [3, 2000] {
        let mut keys: Vec<u32> = (0..3000).map(|i| i % buckets as u32).collect();
        keys[1234] = u32::MAX;
        keys[2345] = buckets as u32;
        check(&keys, buckets, &sorted(&device, &keys, buckets));
        let keys = Tensor::<Cuda>::from_slice(&device, &[3000, 1], DType::U32, &keys).unwrap();
        let mut out = [3000, 3000, buckets + 1].map(|n| Tensor::<Cuda>::empty(&device, &[1, n], DType::U32).unwrap());
        let [order, inverse, offsets] = &mut out;
        let views = (order.view_mut(), inverse.view_mut(), offsets.view_mut());
        device.sort_by_key(SortByKey::new(keys.view(), buckets, views.0, views.1, views.2).unwrap()).unwrap();
        assert_eq!(device.flush().unwrap_err().kind(), ErrorKind::Shape);
        device.flush().unwrap();
    }
}
