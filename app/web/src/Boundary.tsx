/** What stands in place of a page that failed, as when a part of it can't be loaded after an upgrade. */

import { Button } from 'antd'
import { Component, type ReactNode } from 'react'

export class Boundary extends Component<{ children: ReactNode }, { failed: boolean }> {
  override state = { failed: false }

  static getDerivedStateFromError() {
    return { failed: true }
  }

  override render() {
    if (!this.state.failed) return this.props.children
    return (
      <main className="opening">
        <p role="alert">页面出错了，请刷新。</p>
        <Button onClick={() => location.reload()}>刷新</Button>
      </main>
    )
  }
}
